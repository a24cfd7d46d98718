// The plugin's parameters: normalised values from 0 to 1, what they mean, and their text.
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

// Ids, saved in projects and automation: never renumber them.
enum Parameter : vst3::ParameterId {
  kVocals,        // dB; the lowest is off
  kInstrumental,  // dB, likewise
  kBypass,
  kPreset,
  kDelay,
  kServer,
  kAutostart,
  kStatus,  // read-only, like the next two
  kDryBlocks,
  kReconnects,
};
constexpr int kParameters = 10;

constexpr int kDelaysMs[] = {30, 40, 60, 80, 120, 200, 400};
constexpr int kDelays = 7, kDefaultDelay = 2, kPresetCount = 2, kServerSlots = 16;
constexpr double kOffDb = -60.0, kMaxDb = 12.0;
constexpr int kMaxCount = 1000000;  // hosts may keep values in float32, which counts so far

inline bool read_only(vst3::ParameterId id) { return id >= kStatus; }

// Linear gain of a level in dB: exactly 0 when off, exactly 1 at 0 dB.
float gain_of(double db);

// dB to the normalised value of a fader and back. The lower 60 % span 60 dB, so that a thousand
// steps include every tenth of a dB; results are rounded to hundredths, so 0 dB is exact.
double fader_of(double db);
double db_of(double fader);

// Reads a number as users write it, with point or comma whatever the host's locale; a unit may
// follow. False if there is none.
bool number_of(const std::string& text, double* number);

// UTF-16 of at most `max_units` units, ended by 0 if shorter, to UTF-8 and back. `to_utf16` always
// ends with 0 and leaves out characters that do not fit.
std::string to_utf8(const vst3::Char16* text, std::size_t max_units);
void to_utf16(const std::string& text, vst3::Char16* to, std::size_t max_units);

class Parameters {
 public:
  Parameters();

  // Any thread. Facts about a parameter and conversions of its values.
  static void describe(vst3::ParameterId id, vst3::ParameterInfo* info);
  static int steps(vst3::ParameterId id);  // last index of a list, or the highest count; else 0
  static double default_of(vst3::ParameterId id);
  static double to_plain(vst3::ParameterId id, double normal);  // dB, index, count
  static double to_normal(vst3::ParameterId id, double plain);

  // Any thread.
  double normal(vst3::ParameterId id) const { return values_[id].load(std::memory_order_relaxed); }
  void set(vst3::ParameterId id, double normal);
  double plain(vst3::ParameterId id) const { return to_plain(id, normal(id)); }
  int choice(vst3::ParameterId id) const { return static_cast<int>(plain(id)); }
  void set_plain(vst3::ParameterId id, double plain) { set(id, to_normal(id, plain)); }
  Gains gains() const;

  // Any thread but the audio thread in real time. `names`: of the servers of slots 1 and up; slot 0
  // is this computer.
  void set_server_names(std::vector<std::string> names);
  std::string text(vst3::ParameterId id, double normal) const;
  bool value(vst3::ParameterId id, const std::string& text, double* normal) const;

 private:
  std::array<std::atomic<double>, kParameters> values_;
  mutable std::mutex mutex_;
  std::vector<std::string> servers_;
};

}  // namespace stemwire
