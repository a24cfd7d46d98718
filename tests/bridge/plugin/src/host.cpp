// A small VST3 host without a window: plays or renders through the plugin, measures, checks.
//
//   host Stemwire.so [options]              prints one JSON object
//
//   --rate HZ --channels N --block N[,N…]   sizes of blocks, used in turn
//   --seconds S | --minutes M               duration; logs a line each minute to standard error
//   --offline                               render instead of playing
//   --fast                                  play faster than real time
//   --fifo                                  with real-time priority and locked memory
//   --input FILE                            interleaved float32, repeated; else noise
//   --output FILE --vocals FILE --instrumental FILE    recorded outputs, likewise
//   --instances N                           plugins; all get the input, the first is checked
//   --set TITLE=TEXT                        before activation
//   --at POSITION:ACTION                    TITLE=TEXT as automation; ui:TITLE=TEXT from outside;
//                                           reset (deactivated, activated); pause (of processing)
//   --load-state FILE --save-state FILE
//   --gain G | --reference FILE             expected separated output: check every block
//   --sums                                  check that stems sum to the mixture in every block
//                                           (both faders are set to 0 dB)
//   --strict                                fail at any allocation, lock or wait in a callback;
//                                           needs interpose.so in LD_PRELOAD
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <sstream>

#include "host_check.h"
#include "host_plugin.h"
#include "host_sums.h"

namespace {

using host::Position;

struct Options {
  std::string module, input, output[3], load_state, save_state, reference;
  double rate = 44100, seconds = 10;
  int channels = 2, instances = 1;
  float gain = -1.0f;
  std::vector<int> blocks = {512};
  bool offline = false, fast = false, fifo = false, strict = false, stems = false, sums = false;
  std::vector<std::pair<std::string, std::string>> set;
  std::multimap<Position, std::string> events;
};

std::pair<std::string, std::string> halves(const std::string& text, char at) {
  const std::size_t found = text.find(at);
  if (found == std::string::npos) throw std::runtime_error("unknown option " + text);
  return {text.substr(0, found), text.substr(found + 1)};
}

Options read_options(int count, char** arguments) {
  Options options;
  if (count < 2) throw std::runtime_error("expected the path of a module");
  options.module = arguments[1];
  for (int index = 2; index < count; ++index) {
    const std::string name = arguments[index];
    const auto next = [&] {
      if (++index == count) throw std::runtime_error(name + " needs a value");
      return std::string(arguments[index]);
    };
    if (name == "--rate") options.rate = std::stod(next());
    else if (name == "--channels") options.channels = std::stoi(next());
    else if (name == "--seconds") options.seconds = std::stod(next());
    else if (name == "--minutes") options.seconds = 60 * std::stod(next());
    else if (name == "--offline") options.offline = true;
    else if (name == "--fast") options.fast = true;
    else if (name == "--fifo") options.fifo = true;
    else if (name == "--strict") options.strict = true;
    else if (name == "--sums") options.sums = true;
    else if (name == "--input") options.input = next();
    else if (name == "--output") options.output[0] = next();
    else if (name == "--vocals") options.output[1] = next();
    else if (name == "--instrumental") options.output[2] = next();
    else if (name == "--instances") options.instances = std::stoi(next());
    else if (name == "--set") options.set.push_back(halves(next(), '='));
    else if (name == "--load-state") options.load_state = next();
    else if (name == "--save-state") options.save_state = next();
    else if (name == "--gain") options.gain = std::stof(next());
    else if (name == "--reference") options.reference = next();
    else if (name == "--at") {
      const auto [position, action] = halves(next(), ':');
      options.events.emplace(std::stoll(position), action);
    } else if (name == "--block") {
      options.blocks.clear();
      std::istringstream sizes(next());
      for (std::string size; std::getline(sizes, size, ',');) {
        options.blocks.push_back(std::stoi(size));
      }
    } else {
      throw std::runtime_error("unknown option " + name);
    }
  }
  options.stems = options.sums || !options.output[1].empty() || !options.output[2].empty();
  if (options.sums) options.set.insert(options.set.end(), {{"Vocals", "0"}, {"Instrumental", "0"}});
  return options;
}

double now() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

void sleep_until(double when) {
  timespec time{};
  time.tv_sec = static_cast<time_t>(when);
  time.tv_nsec = static_cast<long>(1e9 * (when - static_cast<double>(time.tv_sec)));
  clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, nullptr);
}

long resident_kb() {
  long pages = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> pages >> resident;
  return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

// The interposer's functions, if it is loaded.
struct Watch {
  void (*watch)(int) = reinterpret_cast<void (*)(int)>(dlsym(RTLD_DEFAULT, "stemwire_watch"));
  void (*counts)(long*) = reinterpret_cast<void (*)(long*)>(dlsym(RTLD_DEFAULT, "stemwire_counts"));
  long sums[4] = {};  // allocations, frees, locks, waits

  void begin() const {
    if (watch != nullptr) watch(1);
  }
  void end() {
    if (watch == nullptr) return;
    watch(0);
    long thread_counts[4];
    counts(thread_counts);
    for (int kind = 0; kind < 4; ++kind) sums[kind] += thread_counts[kind];
  }
};

class Run {
 public:
  explicit Run(const Options& options)
      : options_(options),
        source_(options.input, options.channels),
        reference_(options.reference, options.channels),
        check_(source_, options.reference.empty() ? nullptr : &reference_, options.gain,
               options.channels, options.rate),
        sums_(source_, options.channels, options.rate) {
    checks_ = options.gain >= 0 || !options.reference.empty();
    const double begin = now();
    module_ = std::make_unique<host::Module>(options.module);
    const int most = *std::max_element(options.blocks.begin(), options.blocks.end());
    for (int index = 0; index < options.instances; ++index) {
      plugins_.push_back(std::make_unique<host::Instance>(*module_, options.channels, most,
                                                          options.stems && index == 0));
      if (index == 0) load_ms_ = 1e3 * (now() - begin);
    }
    for (auto& plugin : plugins_) {
      if (!options.load_state.empty()) load_state(*plugin);
      for (const auto& [title, text] : options.set) plugin->set(title, text);
      plugin->setup(options.rate, options.offline);
    }
    for (int bus = 0; bus < 3; ++bus) {
      if (!options.output[bus].empty()) files_[bus].open(options.output[bus], std::ios::binary);
    }
    const double activating = now();
    for (auto& plugin : plugins_) plugin->activate(true);
    activate_ms_ = 1e3 * (now() - activating);
    dry_ = plugins_[0]->find("Dry blocks");
    status_ = plugins_[0]->find("Status");
    reconnects_ = plugins_[0]->find("Reconnects");
  }

  int play() {
    const auto samples = static_cast<Position>(options_.seconds * options_.rate);
    // Room for the smallest blocks; some may be empty.
    const auto& blocks = options_.blocks;
    const int smallest = std::max(1, *std::min_element(blocks.begin(), blocks.end()));
    times_.reserve(static_cast<std::size_t>(samples / smallest + 1) * plugins_.size());
    resident_ = resident_kb();
    if (options_.fifo) use_real_time_priority();
    const double begin = now();
    double minute = begin + 60;
    Position at = 0;
    for (std::size_t turn = 0; at < samples; ++turn) {
      const int n = static_cast<int>(std::min<Position>(
          options_.blocks[turn % options_.blocks.size()], samples - at));
      if (!options_.offline && !options_.fast) {
        sleep_until(begin + static_cast<double>(at) / options_.rate);
      }
      block(at, n);
      at += n;
      if (now() >= minute) {
        minute += 60;
        std::fprintf(stderr, "%.0f min: %s\n", (now() - begin) / 60, report().c_str());
      }
    }
    elapsed_ = now() - begin;
    if (!options_.save_state.empty()) {
      host::Memory stream;
      host::check(plugins_[0]->component->get_state(&stream), "get_state");
      std::ofstream(options_.save_state, std::ios::binary) << stream.bytes;
    }
    std::cout << report() << std::endl;
    const bool calls = options_.strict && (watch_.watch == nullptr || watch_.sums[0] > 0 ||
                                           watch_.sums[1] > 0 || watch_.sums[2] > 0 ||
                                           watch_.sums[3] > 0);
    return check_.violations > 0 || sums_.violations > 0 || calls || bad_results_ > 0 ? 1 : 0;
  }

 private:
  void load_state(host::Instance& plugin) {
    host::Memory stream;
    std::ifstream file(options_.load_state, std::ios::binary);
    stream.bytes.assign(std::istreambuf_iterator<char>(file), {});
    state_result_ = plugin.component->set_state(&stream);
    stream.at = 0;
    plugin.controller->set_component_state(&stream);
  }

  void use_real_time_priority() {
    sched_param priority{};
    priority.sched_priority = 70;
    if (sched_setscheduler(0, SCHED_FIFO, &priority) != 0 || mlockall(MCL_CURRENT) != 0) {
      std::fprintf(stderr, "no real-time priority or locked memory here\n");
    }
  }

  // Performs the events before and within the block of n samples at `at`.
  void events(host::Instance& plugin, Position at, int n) {
    plugin.changes.used = 0;
    for (auto event = options_.events.lower_bound(at);
         event != options_.events.end() && event->first < at + n; ++event) {
      const std::string& action = event->second;
      if (action == "reset") {
        plugin.activate(false);
        plugin.activate(true);
        if (&plugin == plugins_[0].get()) begin_checks(at);
      } else if (action == "pause") {
        plugin.processor->set_processing(0);
        plugin.processor->set_processing(1);
        if (&plugin == plugins_[0].get()) begin_checks(at);
      } else if (action.rfind("ui:", 0) == 0) {
        const auto [title, text] = halves(action.substr(3), '=');
        plugin.set(title, text);
      } else {
        const auto [title, text] = halves(action, '=');
        const auto id = plugin.find(title);
        std::int32_t index = 0;
        plugin.changes.add(id, &index)->add(static_cast<std::int32_t>(event->first - at),
                                            plugin.value(id, text), &index);
      }
    }
  }

  void begin_checks(Position at) {
    check_.begin(at);
    sums_.begin(at);
  }

  void block(Position at, int n) {
    for (auto& plugin : plugins_) {
      const bool first = plugin == plugins_[0];
      events(*plugin, at, n);
      for (int c = 0; c < options_.channels; ++c) {
        for (int i = 0; i < n; ++i) plugin->in(c)[i] = source_.at(at + i, c);
      }
      auto& data = plugin->prepare(n);
      watch_.begin();
      const double begin = now();
      const auto result = plugin->processor->process(&data);
      const double end = now();
      watch_.end();
      times_.push_back(static_cast<float>(1e6 * (end - begin)));
      bad_results_ += result != stemwire::vst3::kOk;
      if (first) record(*plugin, at, n);
    }
  }

  void record(host::Instance& plugin, Position at, int n) {
    for (int bus = 0; bus < 3; ++bus) {
      if (!files_[bus].is_open()) continue;
      for (int i = 0; i < n; ++i) {
        for (int c = 0; c < options_.channels; ++c) {
          files_[bus].write(reinterpret_cast<const char*>(plugin.out(bus, c) + i), sizeof(float));
        }
      }
    }
    if (!checks_ && !options_.sums) return;
    const double dry = plugin.plain(dry_);
    const float* out[2] = {plugin.out(0, 0), options_.channels > 1 ? plugin.out(0, 1) : nullptr};
    const int delay = static_cast<int>(plugin.processor->latency());
    if (checks_) check_.block(at, n, delay, out, dry > last_dry_);
    if (options_.sums) {
      const float* all[3][2] = {};
      for (int bus = 0; bus < 3; ++bus) {
        for (int c = 0; c < options_.channels; ++c) all[bus][c] = plugin.out(bus, c);
      }
      sums_.block(at, n, delay, all, dry > last_dry_);
    }
    last_dry_ = dry;
  }

  std::string report() {
    std::vector<float> sorted = times_;
    std::sort(sorted.begin(), sorted.end());
    const auto mark = [&](double percent) {
      const auto index = static_cast<std::size_t>(
          std::ceil(percent / 100 * static_cast<double>(sorted.size())));
      return sorted.empty() ? 0.0f : sorted[std::max<std::size_t>(index, 1) - 1];
    };
    auto& plugin = *plugins_[0];
    std::ostringstream text;
    text << "{\"load_ms\": " << load_ms_ << ", \"activate_ms\": " << activate_ms_
         << ", \"latency\": " << plugin.processor->latency()
         << ", \"latency_changes\": " << plugin.restarts.latency_changes
         << ", \"seconds\": " << elapsed_ << ", \"callbacks\": " << times_.size()
         << ", \"us\": {\"p50\": " << mark(50) << ", \"p95\": " << mark(95)
         << ", \"p99\": " << mark(99) << ", \"p99.9\": " << mark(99.9)
         << ", \"max\": " << mark(100) << "}, \"status\": \"" << plugin.text(status_)
         << "\", \"dry_blocks\": " << plugin.text(dry_)
         << ", \"reconnects\": " << plugin.text(reconnects_)
         << ", \"bad_results\": " << bad_results_ << ", \"state_result\": " << state_result_
         << ", \"resident_kb\": [" << resident_ << ", " << resident_kb() << "]";
    if (checks_) {
      text << ", \"check\": {\"blocks\": " << check_.blocks
           << ", \"counted\": " << check_.counted_blocks << ", \"dry\": " << check_.dry_blocks
           << ", \"fading\": " << check_.moving_blocks
           << ", \"longest_fade_ms\": " << check_.longest_ms()
           << ", \"violations\": " << check_.violations << "}";
    }
    if (options_.sums) {
      text << ", \"sums\": {\"blocks\": " << sums_.blocks << ", \"counted\": "
           << sums_.counted_blocks << ", \"separated\": " << sums_.separated_blocks
           << ", \"worst\": " << sums_.worst() << ", \"violations\": " << sums_.violations << "}";
    }
    if (watch_.watch != nullptr) {
      text << ", \"calls\": {\"allocations\": " << watch_.sums[0]
           << ", \"frees\": " << watch_.sums[1] << ", \"locks\": " << watch_.sums[2]
           << ", \"waits\": " << watch_.sums[3] << "}";
    }
    return text.str() + "}";
  }

  const Options& options_;
  host::Source source_, reference_;
  host::Check check_;
  host::Sums sums_;
  std::unique_ptr<host::Module> module_;  // outlives what it made
  std::vector<std::unique_ptr<host::Instance>> plugins_;
  std::ofstream files_[3];
  Watch watch_;
  std::vector<float> times_;  // microseconds of each callback
  stemwire::vst3::ParameterId dry_ = 0, status_ = 0, reconnects_ = 0;
  bool checks_ = false;
  double load_ms_ = 0, activate_ms_ = 0, elapsed_ = 0, last_dry_ = 0;
  long resident_ = 0, bad_results_ = 0;
  int state_result_ = 0;
};

}  // namespace

int main(int count, char** arguments) {
  try {
    const Options options = read_options(count, arguments);
    return Run(options).play();
  } catch (const std::exception& error) {
    std::cerr << "host: " << error.what() << std::endl;
    return 2;
  }
}
