#include "vst3/parameters.h"

#include <cmath>
#include <limits>

namespace stemwire {
namespace {

using vst3::ParameterId;
using Info = vst3::ParameterInfo;

constexpr double kZeroDb = 0.6;  // fader value of 0 dB
constexpr const char* kThisComputer = "This computer";
constexpr const char* kNoServer = "-";

struct Description {
  const char *title, *units;
  int steps;
  double normal_default;
  int flags;
};

constexpr Description kDescriptions[kParameters] = {
    {"Vocals", "dB", 0, 0.0, Info::kCanAutomate},
    {"Instrumental", "dB", 0, kZeroDb, Info::kCanAutomate},
    {"Bypass", "", 1, 0.0, Info::kCanAutomate | Info::kBypass},
    {"Preset", "", kPresetCount - 1, 0.0, Info::kCanAutomate | Info::kList},
    // These three are not for automation, but some hosts (Ardour) show no other parameters.
    {"Delay", "ms", kDelays - 1, static_cast<double>(kDefaultDelay) / (kDelays - 1),
     Info::kCanAutomate | Info::kList},
    {"Server", "", kServerSlots - 1, 0.0, Info::kCanAutomate | Info::kList},
    {"Autostart", "", 1, 1.0, Info::kCanAutomate},
    {"Status", "", kStatusCount - 1, 0.0, Info::kReadOnly | Info::kList},
    {"Dry blocks", "", kMaxCount, 0.0, Info::kReadOnly},
    {"Reconnects", "", kMaxCount, 0.0, Info::kReadOnly},
};

std::string lower(std::string text) {
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + 'a' - 'A');
  }
  return text;
}

// With one decimal place; printf would use the decimal comma of the host's locale.
std::string tenths(double value) {
  const long all = std::lround(std::fabs(value) * 10.0);
  const char* sign = value < 0 && all > 0 ? "-" : "";
  return sign + std::to_string(all / 10) + "." + std::to_string(all % 10);
}

}  // namespace

float gain_of(double db) {
  if (db <= kOffDb) return 0.0f;
  return db == 0.0 ? 1.0f : static_cast<float>(std::pow(10.0, db / 20.0));
}

double fader_of(double db) {
  if (!(db > kOffDb)) return 0.0;
  if (db >= kMaxDb) return 1.0;
  return db < 0 ? kZeroDb * (1.0 - db / kOffDb) : kZeroDb + (1.0 - kZeroDb) * db / kMaxDb;
}

double db_of(double fader) {
  const double db = fader < kZeroDb ? kOffDb * (1.0 - fader / kZeroDb)
                                    : kMaxDb * (fader - kZeroDb) / (1.0 - kZeroDb);
  return std::round(db * 100.0) / 100.0 + 0.0;  // no -0
}

bool number_of(const std::string& text, double* number) {
  std::size_t at = text.find_first_not_of(' ');
  if (at == std::string::npos) return false;
  const bool negative = text[at] == '-';
  if (negative || text[at] == '+') ++at;
  double value = 0.0, unit = 1.0;
  bool digits = false, point = false;
  for (; at < text.size(); ++at) {
    const char c = text[at];
    if (c >= '0' && c <= '9') {
      value = value * 10.0 + (c - '0');
      if (point) unit *= 10.0;
      digits = true;
    } else if ((c == '.' || c == ',') && !point) {
      point = true;
    } else {
      break;
    }
  }
  if (!digits || !std::isfinite(value) || !std::isfinite(unit)) return false;
  *number = (negative ? -value : value) / unit;
  return true;
}

std::string to_utf8(const vst3::Char16* text, std::size_t max_units) {
  std::string out;
  for (std::size_t i = 0; i < max_units && text[i] != 0; ++i) {
    std::uint32_t c = text[i];
    const bool pair = c >= 0xD800 && c < 0xDC00 && i + 1 < max_units && text[i + 1] >= 0xDC00 &&
                      text[i + 1] < 0xE000;
    if (pair) c = 0x10000 + ((c - 0xD800) << 10) + (text[++i] - 0xDC00u);
    if (c < 0x80) {
      out += static_cast<char>(c);
      continue;
    }
    const int more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    constexpr unsigned char kFirst[] = {0, 0xC0, 0xE0, 0xF0};
    out += static_cast<char>(kFirst[more] | (c >> (6 * more)));
    for (int k = more - 1; k >= 0; --k) out += static_cast<char>(0x80 | ((c >> (6 * k)) & 0x3F));
  }
  return out;
}

void to_utf16(const std::string& text, vst3::Char16* to, std::size_t max_units) {
  std::size_t n = 0;
  for (std::size_t i = 0; i < text.size();) {
    const auto first = static_cast<unsigned char>(text[i++]);
    const int more = first < 0xC0 ? 0 : first < 0xE0 ? 1 : first < 0xF0 ? 2 : 3;
    std::uint32_t c = more == 0 ? first : first & (0x3Fu >> more);
    for (int k = 0; k < more && i < text.size(); ++k) {
      c = (c << 6) | (static_cast<unsigned char>(text[i++]) & 0x3Fu);
    }
    const std::size_t needs = c < 0x10000 ? 1 : 2;
    if (n + needs >= max_units) break;
    if (needs == 2) {
      to[n++] = static_cast<vst3::Char16>(0xD800 + (((c - 0x10000) >> 10) & 0x3FF));
      c = 0xDC00 + (c & 0x3FF);
    }
    to[n++] = static_cast<vst3::Char16>(c);
  }
  to[n] = 0;
}

Parameters::Parameters() {
  for (ParameterId id = 0; id < kParameters; ++id) values_[id] = default_of(id);
}

void Parameters::describe(ParameterId id, Info* info) {
  const Description& d = kDescriptions[id];
  *info = {};
  info->id = id;
  to_utf16(d.title, info->title, 128);
  to_utf16(d.title, info->short_title, 128);
  to_utf16(d.units, info->units, 128);
  info->steps = d.steps;
  info->normal_default = d.normal_default;
  info->flags = d.flags;
}

int Parameters::steps(ParameterId id) { return kDescriptions[id].steps; }
double Parameters::default_of(ParameterId id) { return kDescriptions[id].normal_default; }

double Parameters::to_plain(ParameterId id, double normal) {
  if (id == kVocals || id == kInstrumental) return db_of(normal);
  const int last = steps(id);
  if (id == kDryBlocks || id == kReconnects) return std::round(normal * last);
  return std::fmin(last, std::floor(normal * (last + 1)));
}

double Parameters::to_normal(ParameterId id, double plain) {
  if (id == kVocals || id == kInstrumental) return fader_of(plain);
  const int last = steps(id);
  return std::fmin(std::fmax(std::round(plain), 0.0), last) / last;
}

void Parameters::set(ParameterId id, double normal) {
  if (std::isnan(normal)) return;
  values_[id].store(std::fmin(std::fmax(normal, 0.0), 1.0), std::memory_order_relaxed);
}

Gains Parameters::gains() const {
  return {gain_of(plain(kVocals)), gain_of(plain(kInstrumental)),
          choice(kBypass) != 0 ? 1.0f : 0.0f};
}

void Parameters::set_server_names(std::vector<std::string> names) {
  const std::lock_guard<std::mutex> lock(mutex_);
  servers_ = std::move(names);
}

std::string Parameters::text(ParameterId id, double normal) const {
  const double value = to_plain(id, std::fmin(std::fmax(normal, 0.0), 1.0));
  const auto index = static_cast<std::size_t>(std::fmax(value, 0.0));
  switch (id) {
    case kVocals:
    case kInstrumental:
      return tenths(value);  // off as well: scripts expect numbers, and -60 is one
    case kBypass:
    case kAutostart:
      return index != 0 ? "On" : "Off";
    case kPreset:
      return kPresets[index];
    case kDelay:
      return std::to_string(kDelaysMs[index]);
    case kServer: {
      if (index == 0) return kThisComputer;
      const std::lock_guard<std::mutex> lock(mutex_);
      return index <= servers_.size() ? servers_[index - 1] : kNoServer;
    }
    case kStatus:
      return name_of(static_cast<Status>(index));
    default:
      return std::to_string(index);
  }
}

bool Parameters::value(ParameterId id, const std::string& text, double* normal) const {
  const std::string entered = lower(text);
  double number = 0.0;
  if (id == kVocals || id == kInstrumental) {
    if (entered == "off" || entered.rfind("-inf", 0) == 0) {
      number = kOffDb;
    } else if (!number_of(entered, &number)) {
      return false;
    }
    *normal = fader_of(number);
    return true;
  }
  if (id == kDryBlocks || id == kReconnects) {
    if (!number_of(entered, &number)) return false;
    *normal = to_normal(id, number);
    return true;
  }
  if (entered == kNoServer) return false;
  for (int index = 0; index <= steps(id); ++index) {
    const double candidate = to_normal(id, index);
    const bool found = id == kDelay ? number_of(entered, &number) && number == kDelaysMs[index]
                                    : lower(this->text(id, candidate)) == entered;
    if (found) {
      *normal = candidate;
      return true;
    }
  }
  return false;
}

}  // namespace stemwire
