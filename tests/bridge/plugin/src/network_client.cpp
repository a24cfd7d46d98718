// Shared buffers and network thread without a host: raw samples in, raw stems out.
//
//   network_client URL RATE CHANNELS BLOCK DELAY_MS IN OUT [option value]...
//
// IN holds interleaved float32 channels. OUT gets interleaved float32 stems, the vocals' channels
// and then the instrumental's, at the positions of the mixture; late samples are NaN. URL is
// `local` for this computer.
//
//   pace P        play at P times real time, without waiting for stems; 0, the default: offline,
//                 waiting for every block
//   preset N      index of the preset
//   then N, at S  switch to another before sample S of the input
//   reset AT      begin a new stream at sample AT; OUT continues
//   token T       of the server
//   wait S        offline: give up after S seconds without progress (20)
//   autostart 0   with `local`: start no server
//   log FILE      of the status board
//
// Prints one line of JSON: blocks with missing samples, counters, status code and text.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "audio/shared_buffers.h"
#include "net/json.h"
#include "net/network_thread.h"
#include "net/status.h"

using namespace stemwire;
using Clock = std::chrono::steady_clock;

namespace {

double seconds_since(Clock::time_point then) {
  return std::chrono::duration<double>(Clock::now() - then).count();
}

std::vector<float> read_all(const char* path) {
  std::FILE* file = std::fopen(path, "rb");
  if (file == nullptr) return {};
  std::vector<float> samples;
  float part[4096];
  for (std::size_t n; (n = std::fread(part, sizeof(float), 4096, file)) > 0;) {
    samples.insert(samples.end(), part, part + n);
  }
  std::fclose(file);
  return samples;
}

// Waits until the stems before `until` have arrived; false if they never will.
bool wait_for(SharedBuffers& buffers, Position until, double patience) {
  auto since = Clock::now();
  Position newest = buffers.stems.end();
  while (buffers.stems.end() < until) {
    if (buffers.failed_start.load() == buffers.start.load()) return false;
    if (buffers.stems.end() != newest) newest = buffers.stems.end(), since = Clock::now();
    if (seconds_since(since) > patience) return false;
    buffers.to_audio.wait(20);
  }
  return true;
}

}  // namespace

int main(int count, char** words) {
  if (count < 8) return 2;
  const int rate = std::atoi(words[2]), channels = std::atoi(words[3]);
  const auto block = static_cast<std::size_t>(std::atoi(words[4]));
  std::map<std::string, std::string> options;
  for (int i = 8; i + 1 < count; i += 2) options[words[i]] = words[i + 1];
  const auto number = [&](const char* name, double otherwise) {
    return options.count(name) ? std::atof(options[name].c_str()) : otherwise;
  };
  const double pace = number("pace", 0.0), patience = number("wait", 20.0);
  const bool offline = pace == 0.0;
  const auto reset_at = static_cast<Position>(number("reset", -1));
  const auto then_at = static_cast<Position>(number("at", -1));

  const std::vector<float> in = read_all(words[6]);
  const auto width = static_cast<std::size_t>(channels), stem_width = kStems * width;
  const std::size_t total = in.size() / width;

  Log log(options.count("log") ? options["log"] : "/dev/null");
  StatusBoard board(log);
  Counters counters;
  SharedBuffers buffers(rate, channels);
  buffers.delay.store(static_cast<int>(std::atof(words[5]) * rate / 1000.0));
  buffers.preset.store(static_cast<int>(number("preset", 0)));
  buffers.begin_stream(offline);
  Target target;
  target.local = std::strcmp(words[1], "local") == 0;
  target.url = words[1];
  target.token = options["token"];
  target.autostart = number("autostart", 1) != 0;

  const int delay = buffers.delay.load();
  std::vector<float> out(total * stem_width, std::numeric_limits<float>::quiet_NaN());
  std::vector<float> planes[kMaxChannels];
  for (auto& plane : planes) plane.resize(block);
  std::vector<float> stem(block);
  std::size_t dry = 0;
  bool failed = false;
  Clock::time_point ended;
  Status status;
  std::string text;
  {
    const auto begin = Clock::now();
    NetworkThread network_thread(buffers, counters, board, target);
    std::size_t done = 0;
    // Silence follows the input until its last sample has come out.
    while (done < total + static_cast<std::size_t>(delay) && !failed) {
      std::size_t n = std::min(block, total + static_cast<std::size_t>(delay) - done);
      const auto here = static_cast<Position>(done);
      for (const Position stop : {reset_at, then_at}) {
        if (here < stop) n = std::min(n, static_cast<std::size_t>(stop - here));
      }
      if (here == reset_at) buffers.begin_stream(offline);
      if (here == then_at) buffers.preset.store(static_cast<int>(number("then", 0)));
      const float* channel[kMaxChannels];
      for (std::size_t c = 0; c < width; ++c) {
        for (std::size_t i = 0; i < n; ++i) {
          planes[c][i] = done + i < total ? in[(done + i) * width + c] : 0.0f;
        }
        channel[c] = planes[c].data();
      }
      if (!buffers.mixture.write(channel, n)) counters.lost_samples += n;
      buffers.to_network.raise();
      if (pace > 0) {
        const std::chrono::duration<double> due(static_cast<double>(done + n) / (pace * rate));
        std::this_thread::sleep_until(begin + std::chrono::duration_cast<Clock::duration>(due));
      }
      // Like the audio processor: the samples `delay` back, as far as they belong to the stream.
      const Position start = buffers.start.load();
      const Position first = here - delay, last = first + static_cast<Position>(n);
      if (offline && last > start) failed = !wait_for(buffers, last, patience);
      bool missing = false;
      for (Position at = std::max(first, start); at < last && !failed;) {
        const std::size_t there = buffers.stems.available(at, static_cast<std::size_t>(last - at));
        if (there == 0) {
          missing = true;
          ++at;
          continue;
        }
        for (std::size_t plane = 0; plane < stem_width; ++plane) {
          buffers.stems.read(static_cast<int>(plane / width), static_cast<int>(plane % width), at,
                             stem.data(), there);
          for (std::size_t i = 0; i < there && static_cast<std::size_t>(at) + i < total; ++i) {
            out[(static_cast<std::size_t>(at) + i) * stem_width + plane] = stem[i];
          }
        }
        at += static_cast<Position>(there);
      }
      dry += missing;
      done += n;
    }
    status = board.status();
    text = board.text();
    ended = Clock::now();
  }
  const double closing = seconds_since(ended);
  std::FILE* file = std::fopen(words[7], "wb");
  if (file == nullptr) return 2;
  std::fwrite(out.data(), sizeof(float), out.size(), file);
  std::fclose(file);
  std::printf(
      "{\"failed\": %s, \"dry\": %zu, \"lost\": %llu, \"reconnects\": %llu, \"resumes\": %llu, "
      "\"closing\": %.3f, \"code\": %s, \"text\": %s}\n",
      failed ? "true" : "false", dry, static_cast<unsigned long long>(counters.lost_samples.load()),
      static_cast<unsigned long long>(counters.reconnects.load()),
      static_cast<unsigned long long>(counters.resumes.load()), closing,
      quoted(name_of(status)).c_str(), quoted(text).c_str());
  return failed ? 1 : 0;
}
