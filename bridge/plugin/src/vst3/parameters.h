// What the host may set and show: values between 0 and 1, what they mean, and their text.
#pragma once

#include <array>
#include <atomic>
#include <mutex>
#include <string>
#include <vector>

#include "audio/audio_processor.h"
#include "audio/shared_buffers.h"
#include "net/status.h"
#include "vst3/abi.h"

namespace stemwire {

// Saved in projects and automation: never renumbered.
enum Parameter : vst3::ParameterId {
  kVocals,        // dB; the lowest is off
  kInstrumental,  // dB, likewise
  kBypass,
  kPreset,
  kDelay,
  kServer,
  kAutostart,
  kStatus,      // read-only, as the next two
  kDryBlocks,
  kReconnects,
};
constexpr int kParameters = 10;

constexpr int kDelaysMs[] = {30, 40, 60, 80, 120, 200, 400};
constexpr int kDelays = 7, kDefaultDelay = 2, kPresetCount = 2, kServerSlots = 16;
constexpr double kOffDb = -60.0, kMostDb = 12.0;
constexpr int kMostCount = 1000000;  // as far as float32, which some hosts keep values in, counts

inline bool read_only(vst3::ParameterId id) { return id >= kStatus; }

// Linear gain of a level in dB: exactly 0 when off, exactly 1 at 0 dB.
float gain_of(double db);

// dB to the normalised value of a fader and back. The lower 60 % are 60 dB, so that hosts that try
// a thousand values meet every tenth; results are rounded to hundredths, so 0 dB is just that.
double fader_of(double db);
double db_of(double fader);

// A number as people write it, whatever the host's locale; a unit may follow. False if it is none.
bool number_of(const std::string& text, double* number);

std::string narrow(const vst3::Char16* text, std::size_t most);              // to UTF-8
void widen(const std::string& text, vst3::Char16* to, std::size_t most);     // ends with 0

class Parameters {
 public:
  Parameters();

  static void describe(vst3::ParameterId id, vst3::ParameterInfo* info);
  static int steps(vst3::ParameterId id);  // of a list, else 0
  static double default_of(vst3::ParameterId id);
  static double to_plain(vst3::ParameterId id, double normal);  // dB, place in a list, count
  static double to_normal(vst3::ParameterId id, double plain);

  // Any thread.
  double normal(vst3::ParameterId id) const { return values_[id].load(std::memory_order_relaxed); }
  void set(vst3::ParameterId id, double normal);
  double plain(vst3::ParameterId id) const { return to_plain(id, normal(id)); }
  int choice(vst3::ParameterId id) const { return static_cast<int>(plain(id)); }
  void set_plain(vst3::ParameterId id, double plain) { set(id, to_normal(id, plain)); }
  Levels levels() const;

  // Not the audio thread. `names` of the servers from slot 1 on; slot 0 is this computer.
  void name_servers(std::vector<std::string> names);
  std::string text(vst3::ParameterId id, double normal) const;
  bool value(vst3::ParameterId id, const std::string& text, double* normal) const;

 private:
  std::array<std::atomic<double>, kParameters> values_;
  mutable std::mutex mutex_;
  std::vector<std::string> servers_;
};

}  // namespace stemwire
