#include "vst3/state.h"

#include <algorithm>
#include <cmath>

#include "net/json.h"
#include "vst3/parameters.h"

namespace stemwire {
namespace {

constexpr int kVersion = 1;
constexpr std::size_t kMaxText = 512;  // bytes of a server's name, address or token

// In hundredths, like levels; printf would use the decimal comma of the host's locale.
std::string number(double value) {
  const long all = std::lround(std::fabs(value) * 100.0);
  std::string text = (value < 0 && all > 0 ? "-" : "") + std::to_string(all / 100);
  if (all % 100 != 0) {
    text += all % 100 < 10 ? ".0" : ".";
    text += std::to_string(all % 100);
  }
  return text;
}

const char* boolean(bool value) { return value ? "true" : "false"; }

// Reads the fields of an object and remembers the first invalid one.
class Fields {
 public:
  Fields(const Json& object, std::string& problem) : object_(object), problem_(problem) {}

  const Json* find(const char* name, Json::Type type) {
    const Json* found = object_.find(name);
    if (found == nullptr || found->is(type)) return found;
    wrong(name);
    return nullptr;
  }

  void read(const char* name, bool& value) {
    if (const Json* found = find(name, Json::Type::kBool)) value = found->boolean;
  }

  void read(const char* name, double& value, double least, double most) {
    const Json* found = find(name, Json::Type::kNumber);
    if (found == nullptr) return;
    if (found->number < least || found->number > most) wrong(name);
    else value = found->number;
  }

  void read(const char* name, std::string& value) {
    const Json* found = find(name, Json::Type::kString);
    if (found == nullptr) return;
    if (found->text.size() > kMaxText) wrong(name);
    else value = found->text;
  }

  void wrong(const std::string& name) {
    if (problem_.empty()) problem_ = "saved state: \"" + name + "\" is invalid";
  }

 private:
  const Json& object_;
  std::string& problem_;
};

void read_preset(Fields& fields, int& preset) {
  std::string name = kPresets[preset];
  fields.read("preset", name);
  const auto* found = std::find(std::begin(kPresets), std::end(kPresets), name);
  if (found == std::end(kPresets)) fields.wrong("preset");
  else preset = static_cast<int>(found - std::begin(kPresets));
}

void read_delay(Fields& fields, int& delay_ms) {
  double delay = delay_ms;
  fields.read("delay", delay, 0, 10000);
  if (std::find(std::begin(kDelaysMs), std::end(kDelaysMs), delay) == std::end(kDelaysMs)) {
    fields.wrong("delay");
  } else {
    delay_ms = static_cast<int>(delay);
  }
}

}  // namespace

std::string write_state(const State& state) {
  std::string text = "{\"stemwire\": " + std::to_string(kVersion) +
                     ", \"vocals\": " + number(state.vocals) +
                     ", \"instrumental\": " + number(state.instrumental) +
                     ", \"bypass\": " + boolean(state.bypass) +
                     ", \"preset\": " + quoted(kPresets[state.preset]) +
                     ", \"delay\": " + std::to_string(state.delay_ms);
  if (!state.server.name.empty()) {
    text += ", \"server\": {\"name\": " + quoted(state.server.name) +
            ", \"url\": " + quoted(state.server.url) +
            ", \"token\": " + quoted(state.server.token) + "}";
  }
  return text + ", \"autostart\": " + boolean(state.autostart) + "}";
}

bool read_state(const std::string& text, State& state, std::string& problem) {
  problem.clear();
  Json json;
  if (!Json::parse(text, json, problem)) {
    problem = "saved state: " + problem;
    return false;
  }
  const Json* version = json.find("stemwire");
  if (!json.is(Json::Type::kObject) || version == nullptr || !version->is_integer ||
      version->integer < 1) {
    problem = "saved state: not of this plugin";
    return false;
  }
  State read;
  Fields fields(json, problem);
  fields.read("vocals", read.vocals, kOffDb, kMaxDb);
  fields.read("instrumental", read.instrumental, kOffDb, kMaxDb);
  fields.read("bypass", read.bypass);
  read_preset(fields, read.preset);
  read_delay(fields, read.delay_ms);
  fields.read("autostart", read.autostart);
  if (const Json* server = fields.find("server", Json::Type::kObject)) {
    Fields of_server(*server, problem);
    of_server.read("name", read.server.name);
    of_server.read("url", read.server.url);
    of_server.read("token", read.server.token);
    if (read.server.name.empty()) of_server.wrong("name");
  }
  if (!problem.empty()) return false;
  state = read;
  return true;
}

bool read_all(vst3::Stream& stream, std::string& text) {
  text.clear();
  char piece[1024];
  for (;;) {
    std::int32_t done = 0;
    const vst3::Result result = stream.read(piece, sizeof piece, &done);
    if (done < 0 || done > static_cast<std::int32_t>(sizeof piece)) return false;
    text.append(piece, static_cast<std::size_t>(done));
    if (text.size() > Json::kMaxBytes) return false;
    // Some hosts report the end as a failure.
    if (done == 0) return result == vst3::kOk || !text.empty();
    if (result != vst3::kOk) return true;
  }
}

bool write_all(vst3::Stream& stream, const std::string& text) {
  std::string copy = text;  // the interface asks for writable memory
  for (std::size_t at = 0; at < copy.size();) {
    std::int32_t done = 0;
    const auto left = static_cast<std::int32_t>(copy.size() - at);
    if (stream.write(copy.data() + at, left, &done) != vst3::kOk || done <= 0 || done > left) {
      return false;
    }
    at += static_cast<std::size_t>(done);
  }
  return true;
}

}  // namespace stemwire
