#include "net/session_transport.h"

#include <algorithm>
#include <utility>

namespace stemwire {
namespace {

constexpr std::int64_t kMostFrame = 4096;        // samples: so that the server can begin
constexpr std::size_t kMostWaiting = 64 * 1024;  // bytes: beyond, mixture stays in its ring
// Between frames: a host whose blocks are tiny would send more messages than a server bears.
constexpr auto kBetweenFrames = std::chrono::microseconds(500);
constexpr double kBehindSeconds = 1.0;
constexpr auto kBetweenJumps = std::chrono::seconds(2);

}  // namespace

SessionTransport::SessionTransport(SharedBuffers& buffers, std::string client, Failing failing)
    : buffers_(buffers),
      failing_(std::move(failing)),
      peer_(wish_),
      buffer_(static_cast<std::size_t>(buffers.channels * kMostFrame)) {
  wish_.rate = buffers.rate;
  wish_.channels = buffers.channels;
  wish_.client = std::move(client);
  end_ = buffers.mixture.end();
  begin_stream(buffers.start.load(), buffers.offline.load());
  failed_ = offline_ && buffers.failed_start.load() == start_;
  begin_anew();
}

const char* SessionTransport::preset() const {
  constexpr int kLast = static_cast<int>(sizeof kPresets / sizeof *kPresets) - 1;
  return kPresets[std::clamp(buffers_.preset.load(std::memory_order_relaxed), 0, kLast)];
}

bool SessionTransport::too_late() const {
  return peer_.has_session() &&
         peer_.latency() > buffers_.delay.load(std::memory_order_relaxed);
}

// Real time: whether stems have been too late for so long that they will not catch up.
bool SessionTransport::behind() {
  const Position heard = end_ - buffers_.delay.load(std::memory_order_relaxed);
  if (offline_ || too_late() || heard <= buffers_.stems.end()) in_time_ = heard;
  return static_cast<double>(heard - in_time_) > kBehindSeconds * buffers_.rate;
}

void SessionTransport::look() {
  end_ = buffers_.mixture.end();  // before `start`: see there
  const Position start = buffers_.start.load(std::memory_order_acquire);
  const bool offline = buffers_.offline.load(std::memory_order_relaxed);
  end_ = std::max(end_, start);
  if (start != start_ || offline != offline_) begin_stream(start, offline);
  if (peer_.has_session()) {
    const std::string wanted = preset();
    const std::string& now = peer_.chosen().empty() ? peer_.wish().preset : peer_.chosen();
    const bool fresh = peer_.sent() == 0;
    // A render shall be the same whatever was played before it.
    if ((wanted != now && (offline_ || fresh)) || (offline_ && fresh && !peer_.chosen().empty())) {
      wants_anew_ = !failed_;
    } else if (wanted != now) {
      sayings_.push_back(peer_.choose(wanted));
    }
  }
  if (offline_ && !failed_ && end_ > start_ && too_late()) {
    fail("the separator alone needs " + std::to_string(peer_.latency()) +
         " samples, and the plugin's delay is " + std::to_string(buffers_.delay.load()) +
         "; choose a longer delay");
  }
  if (behind() && peer_.connected() && Clock::now() - jumped_ > kBetweenJumps) begin_now();
  release();
}

void SessionTransport::begin_stream(Position start, bool offline) {
  start_ = start;
  offline_ = offline;
  failed_ = false;
  reason_.clear();
  base_ = start;
  buffers_.stems.restart(start);
  if (peer_.has_session()) sayings_.push_back(peer_.reset());
}

// Real time: what is old is given up.
void SessionTransport::begin_now() {
  jumped_ = Clock::now();
  end_ = in_time_ = base_ = std::max(buffers_.mixture.end(), start_);
  buffers_.stems.restart(base_);
  sayings_.push_back(peer_.reset());
}

void SessionTransport::begin_anew() {
  wants_anew_ = false;
  sayings_.clear();
  wish_.preset = preset();
  peer_ = ClientPeer(wish_);
}

// The server has let a new session in.
void SessionTransport::begin_session() {
  look();
  if (!offline_ || failed_) {
    base_ = end_;
    buffers_.stems.restart(base_);
    jumped_ = Clock::now();
  } else {
    base_ = buffers_.stems.end();
    if (buffers_.mixture.kept() > base_) fail("the beginning of the music is not there any more");
  }
}

void SessionTransport::lost(const std::string& reason) {
  begin_anew();
  if (offline_ && !failed_ && buffers_.stems.end() > start_) fail(reason);
}

void SessionTransport::fail(const std::string& reason) {
  failed_ = true;
  reason_ = reason;
  if (failing_) failing_(reason);
  buffers_.failed_start.store(start_, std::memory_order_release);
  buffers_.to_audio.raise();
}

void SessionTransport::release() {
  if (failed_) buffers_.mixture.release(end_);
  // Offline, what stems are missing for: another session may have to begin there.
  else if (offline_) buffers_.mixture.release(buffers_.stems.end());
  else buffers_.mixture.release(peer_.has_session() ? base_ + peer_.received() : end_);
}

std::string SessionTransport::hello(const std::string& token) {
  look();
  if (!peer_.has_session() || wants_anew_) begin_anew();
  wish_.token = token;
  peer_.set_token(token);
  sayings_.clear();  // the peer says all of it again
  return peer_.connect();
}

// What is under way never fills more than half of a ring, whatever a server allows.
std::int64_t SessionTransport::room() const {
  const auto half = static_cast<std::int64_t>(buffers_.mixture.size() / 2);
  return std::min(peer_.room(), half - (peer_.sent() - peer_.received()));
}

void SessionTransport::send(WebSocket& socket) {
  for (const std::string& saying : sayings_) {
    if (!saying.empty() && peer_.connected()) socket.send_text(saying);
  }
  sayings_.clear();
  if (!peer_.connected() || failed_ || wants_anew_) return;
  const auto now = Clock::now();
  if (now - sent_ < kBetweenFrames) return;
  const Position whole = buffers_.mixture.whole_from();  // after `end_`
  if (const Position missing = whole - (base_ + peer_.sent()); missing > 0) {
    if (offline_) return fail("some of the music was lost on its way to the server");
    if (missing > room()) return begin_now();
    const auto frame = peer_.skip(missing);
    socket.send_binary(frame.data(), frame.size());
  }
  while (socket.waiting() < kMostWaiting) {
    const Position at = base_ + peer_.sent();
    const std::int64_t n = std::min({end_ - at, room(), kMostFrame, peer_.most_count()});
    if (n <= 0) break;
    const float* channels[kMostChannels];
    for (int c = 0; c < buffers_.channels; ++c) {
      float* to = buffer_.data() + c * kMostFrame;
      buffers_.mixture.read(c, at, to, static_cast<std::size_t>(n));
      channels[c] = to;
    }
    const auto frame = peer_.mixture(channels, static_cast<std::size_t>(n));
    socket.send_binary(frame.data(), frame.size());
    sent_ = now;
  }
}

SessionTransport::Clock::time_point SessionTransport::next_send(Clock::time_point latest) const {
  if (!sayings_.empty()) return sent_;
  const bool more = peer_.connected() && !failed_ && room() > 0 && base_ + peer_.sent() < end_;
  return more ? std::min(latest, sent_ + kBetweenFrames) : latest;
}

ClientPeer::Event SessionTransport::receive_text(std::string_view text) {
  const ClientPeer::Event event = peer_.receive_text(text);
  for (std::string& answer : peer_.take_answers()) sayings_.push_back(std::move(answer));
  if (event.kind == ClientPeer::Event::Kind::kWelcome && !event.resumed) begin_session();
  return event;
}

ClientPeer::Event SessionTransport::receive_binary(const std::uint8_t* data, std::size_t n) {
  const ClientPeer::Event event = peer_.receive_binary(data, n);
  if (event.kind == ClientPeer::Event::Kind::kAudio && !failed_) place(event);
  release();
  return event;
}

void SessionTransport::place(const ClientPeer::Event& event) {
  StemTimeline& stems = buffers_.stems;
  const float* planes[kStems * kMostChannels];
  for (std::size_t done = 0; done < event.count;) {
    const std::int64_t at = event.position + static_cast<std::int64_t>(done);
    const std::size_t n = peer_.run_at(at, event.count - done);
    const Position belongs = base_ + at - peer_.latency_at(at);
    if (belongs > stems.end()) {
      // The server left a gap, or has gone over to a preset that is less late.
      if (offline_) return fail("the server left out some of the stems");
      stems.restart(belongs);
    }
    // Before the beginning, or there already, from a preset that is less late.
    const std::int64_t there = stems.end() - belongs;
    if (there < static_cast<std::int64_t>(n)) {
      const std::size_t from = static_cast<std::size_t>(there);
      for (int p = 0; p < peer_.planes(); ++p) {
        planes[p] = peer_.plane(p, event.count) + done + from;
      }
      stems.write(planes, n - from);
    }
    done += n;
  }
  if (offline_) buffers_.to_audio.raise();
}

}  // namespace stemwire
