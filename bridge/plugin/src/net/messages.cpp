#include "net/messages.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>

#include "audio/shared_buffers.h"
#include "net/json.h"

namespace stemwire {
namespace {

// Reads the fields of an object and remembers the first invalid one.
class Fields {
 public:
  Fields(const Json& object, std::string& wrong) : object_(object), wrong_(wrong) {}

  std::int64_t integer(const char* name, std::int64_t low, std::int64_t high,
                       const std::int64_t* otherwise = nullptr) {
    const Json* item = object_.find(name);
    if (item == nullptr && otherwise != nullptr) return *otherwise;
    if (item == nullptr || !item->is(Json::Type::kNumber) || !item->is_integer ||
        item->integer < low || item->integer > high) {
      return reject(name), low;
    }
    return item->integer;
  }

  double real(const char* name, double low, double high, const double* otherwise = nullptr) {
    const Json* item = object_.find(name);
    if (item == nullptr && otherwise != nullptr) return *otherwise;
    if (item == nullptr || !item->is(Json::Type::kNumber) || !(item->number >= low) ||
        !(item->number <= high)) {
      return reject(name), low;
    }
    return item->number;
  }

  std::string string(const char* name, std::size_t least, std::size_t most, bool needed = true) {
    const Json* item = object_.find(name);
    if (item == nullptr && !needed) return "";
    if (item == nullptr || !item->is(Json::Type::kString)) return reject(name), "";
    const std::size_t length = code_points(item->text);
    if (length < least || length > most) return reject(name), "";
    return item->text;
  }

  void boolean(const char* name) {
    const Json* item = object_.find(name);
    if (item == nullptr || !item->is(Json::Type::kBool)) reject(name);
  }

  // An object of values of one type.
  void object_of(const char* name, Json::Type type, bool positive) {
    const Json* item = object_.find(name);
    if (item == nullptr || !item->is(Json::Type::kObject)) return reject(name);
    for (const Json& value : item->items) {
      if (!value.is(type) || (positive && value.number < 0)) reject(name);
    }
  }

  const Json* object(const char* name) {
    const Json* item = object_.find(name);
    if (item != nullptr && item->is(Json::Type::kObject)) return item;
    return reject(name), nullptr;
  }

  void versions(const char* name) {
    const Json* item = object_.find(name);
    if (item == nullptr) return;
    if (!item->is(Json::Type::kArray)) return reject(name);
    for (const Json& value : item->items) {
      if (!value.is(Json::Type::kNumber) || !value.is_integer || value.integer < 0) reject(name);
    }
  }

 private:
  void reject(const char* name) {
    if (wrong_.empty()) wrong_ = name;
  }

  const Json& object_;
  std::string& wrong_;
};

constexpr std::int64_t kZero = 0;
constexpr double kZeroReal = 0.0, kMaxReal = std::numeric_limits<double>::max();
constexpr std::size_t kAnyLength = Json::kMaxBytes;
constexpr int kLastStream = 65535;

void welcome(Fields& fields, std::string& wrong, ServerMessage& to) {
  to.session = fields.string("session", 1, 64);
  to.key = fields.string("key", 16, 64);
  to.latency = fields.integer("latency", 0, kMaxPosition);
  to.hop = fields.integer("hop", 1, kMaxPosition);
  to.stream = static_cast<int>(fields.integer("stream", 0, kLastStream, &kZero));
  to.position = fields.integer("position", 0, kMaxPosition, &kZero);
  to.server = fields.string("server", 0, kAnyLength, false);
  if (const Json* object = fields.object("limits")) {
    Fields limits(*object, wrong);
    to.limits.message = limits.integer("message", 64, kMaxPosition);
    to.limits.ahead = limits.integer("ahead", 1, kMaxPosition);
    to.limits.grace = limits.real("grace", 0.0, kMaxReal);
    to.limits.idle = limits.real("idle", 0.0, kMaxReal);
  }
}

void state(Fields& fields, ServerMessage& to) {
  to.id = fields.integer("id", 0, kMaxPosition, &kZero);
  fields.real("vocals", -200.0, 24.0);
  fields.real("instrumental", -200.0, 24.0);
  fields.boolean("mute");
  fields.boolean("bypass");
  fields.object_of("effects", Json::Type::kString, false);
  to.preset = fields.string("preset", 1, 64);
  to.latency = fields.integer("latency", 0, kMaxPosition);
  to.position = fields.integer("position", 0, kMaxPosition);
}

void stats(Fields& fields) {
  for (const char* name : {"position", "waiting", "gaps", "missing", "misses", "sessions"}) {
    fields.integer(name, 0, kMaxPosition);
  }
  fields.real("load", 0.0, kMaxReal);
  fields.object_of("hop_ms", Json::Type::kNumber, true);
}

ServerMessage::Type type_of(const std::string& name) {
  using Type = ServerMessage::Type;
  static constexpr struct {
    const char* name;
    Type type;
  } kTypes[] = {
      {"welcome", Type::kWelcome}, {"state", Type::kState},     {"flushed", Type::kFlushed},
      {"reset", Type::kReset},     {"ping", Type::kPing},       {"pong", Type::kPong},
      {"stats", Type::kStats},     {"error", Type::kError},     {"goodbye", Type::kGoodbye},
  };
  for (const auto& known : kTypes) {
    if (name == known.name) return known.type;
  }
  return Type::kUnknown;
}

ProtocolError malformed(const std::string& text) { return {"malformed", text}; }

// Enough digits for any double, with a decimal point whatever the host's locale.
std::string decimal(double value) {
  char digits[40];
  std::snprintf(digits, sizeof digits, "%.17g", value);
  std::string text;
  for (const char* c = digits; *c != '\0'; ++c) {
    if (std::strchr("0123456789+-e", *c) != nullptr) text += *c;
    else if (text.empty() || text.back() != '.') text += '.';
  }
  return text;
}

template <typename T>
void put(std::uint8_t* to, T value) {  // little-endian on any machine
  for (std::size_t i = 0; i < sizeof value; ++i)
    to[i] = static_cast<std::uint8_t>(value >> (8 * i));
}

template <typename T>
T get(const std::uint8_t* from) {
  T value = 0;
  for (std::size_t i = 0; i < sizeof value; ++i)
    value = static_cast<T>(value | T{from[i]} << (8 * i));
  return value;
}

}  // namespace

ProtocolError decode(std::string_view text, ServerMessage& message) {
  using Type = ServerMessage::Type;
  message = ServerMessage();
  Json json;
  std::string problem;
  if (text.size() > Json::kMaxBytes) {
    return {"too_large", "a text of " + std::to_string(text.size()) + " bytes"};
  }
  if (!Json::parse(text, json, problem)) return malformed("not a valid message: " + problem);
  const Json* type = json.is(Json::Type::kObject) ? json.find("type") : nullptr;
  if (type == nullptr || !type->is(Json::Type::kString)) {
    return malformed("not a valid message: it has no type");
  }
  const std::string& name = type->text;
  if (name == "hello" || name == "control" || name == "flush") {
    return {"state", "a server must not send " + name};
  }
  message.type = type_of(name);
  std::string wrong;
  Fields fields(json, wrong);
  switch (message.type) {
    case Type::kUnknown: return {};
    case Type::kWelcome: {
      const std::int64_t version = fields.integer("version", 0, kMaxPosition);
      if (wrong.empty() && version != kProtocolVersion) {
        return {"version", "it speaks version " + std::to_string(version) +
                               " of the protocol, and the plugin version " +
                               std::to_string(kProtocolVersion)};
      }
      welcome(fields, wrong, message);
      break;
    }
    case Type::kState: state(fields, message); break;
    case Type::kStats: stats(fields); break;
    case Type::kFlushed:
      message.stream = static_cast<int>(fields.integer("stream", 0, kLastStream));
      message.position = fields.integer("position", 0, kMaxPosition);
      break;
    case Type::kReset:
      message.stream = static_cast<int>(fields.integer("stream", 0, kLastStream, &kZero));
      break;
    case Type::kPing:
    case Type::kPong:
      message.id = fields.integer("id", 0, kMaxPosition, &kZero);
      message.time = fields.real("time", -kMaxReal, kMaxReal, &kZeroReal);
      break;
    case Type::kError:
      message.code = fields.string("code", 0, kAnyLength);
      message.text = fields.string("text", 0, kAnyLength);
      message.id = fields.integer("id", 0, kMaxPosition, &kZero);
      fields.versions("supported");
      break;
    case Type::kGoodbye: message.text = fields.string("reason", 0, kAnyLength, false); break;
  }
  for (std::string* shown : {&message.text, &message.code, &message.server}) {
    *shown = single_line(*shown);
  }
  if (!wrong.empty()) return malformed(name + ": the field " + wrong + " is invalid");
  return {};
}

std::string single_line(std::string_view text) {
  constexpr std::size_t kMaxLength = 300;
  std::string result;
  while (!text.empty() && result.size() < kMaxLength) {
    const std::size_t length = utf8_length(text);
    const auto first = static_cast<unsigned char>(text[0]);
    if (length == 0 || first < 0x20 || first == 0x7F) result += ' ';
    else result.append(text, 0, length);
    text.remove_prefix(std::max<std::size_t>(length, 1));
  }
  return result;
}

std::string encode_hello(const SessionRequest& request, const Resume* resume) {
  std::string text = "{\"type\":\"hello\",\"version\":" + std::to_string(kProtocolVersion);
  if (!request.token.empty()) text += ",\"token\":" + quoted(request.token);
  text += ",\"rate\":" + std::to_string(request.rate);
  text += ",\"channels\":" + std::to_string(request.channels);
  text += ",\"stems\":[\"vocals\",\"instrumental\"],\"preset\":" + quoted(request.preset);
  if (resume != nullptr) {
    text += ",\"resume\":{\"session\":" + quoted(resume->session) +
            ",\"key\":" + quoted(resume->key) + ",\"stream\":" + std::to_string(resume->stream) +
            ",\"position\":" + std::to_string(resume->position) + "}";
  }
  return text + ",\"client\":" + quoted(request.client) + "}";
}

std::string encode_preset(std::string_view preset, std::int64_t id) {
  return "{\"type\":\"control\",\"id\":" + std::to_string(id) + ",\"preset\":" + quoted(preset) +
         "}";
}

std::string encode_ping(std::int64_t id, std::string_view type, double time) {
  std::string text = "{\"type\":" + quoted(type) + ",\"id\":" + std::to_string(id);
  if (time != 0.0) text += ",\"time\":" + decimal(time);
  return text + "}";
}

std::string encode_plain(std::string_view type) { return "{\"type\":" + quoted(type) + "}"; }

std::vector<std::uint8_t> encode_frame(const FrameHeader& head, const float* const* planes,
                                       int plane_count) {
  const std::size_t samples = static_cast<std::size_t>(plane_count) * head.count;
  std::vector<std::uint8_t> data(kHeaderBytes + 4 * samples);
  data[0] = static_cast<std::uint8_t>(head.kind);
  put(&data[2], static_cast<std::uint16_t>(head.stream));
  put(&data[4], head.sequence);
  put(&data[8], static_cast<std::uint64_t>(head.position));
  put(&data[16], head.count);
  std::uint8_t* to = data.data() + kHeaderBytes;
  for (int plane = 0; plane < plane_count; ++plane) {
    for (std::uint32_t i = 0; i < head.count; ++i, to += 4) {
      const float sample = planes[plane][i];
      const float fine = std::fabs(sample) <= kMaxSample ? sample : 0.0f;
      std::uint32_t bits;
      std::memcpy(&bits, &fine, sizeof bits);
      put(to, bits);
    }
  }
  return data;
}

ProtocolError decode_frame(const std::uint8_t* data, std::size_t n, int kind, int plane_count,
                           FrameHeader& head, std::vector<float>& samples) {
  if (n < kHeaderBytes) return malformed("a frame with an incomplete header");
  if (data[0] != kind) return malformed("a frame of kind " + std::to_string(data[0]));
  const std::uint64_t position = get<std::uint64_t>(data + 8);
  head.kind = kind;
  head.stream = get<std::uint16_t>(data + 2);
  head.sequence = get<std::uint32_t>(data + 4);
  head.count = get<std::uint32_t>(data + 16);
  if (position > static_cast<std::uint64_t>(kMaxPosition) ||
      position + head.count > static_cast<std::uint64_t>(kMaxPosition)) {
    return malformed("a frame whose position is too large");
  }
  head.position = static_cast<std::int64_t>(position);
  const std::uint64_t wanted = std::uint64_t{4} * static_cast<unsigned>(plane_count) * head.count;
  if (n - kHeaderBytes != wanted) {
    return malformed("a frame of " + std::to_string(head.count) + " samples has " +
                     std::to_string(n) + " bytes, not " + std::to_string(kHeaderBytes + wanted));
  }
  samples.resize(wanted / 4);
  const std::uint8_t* from = data + kHeaderBytes;
  for (float& sample : samples) {
    const std::uint32_t bits = get<std::uint32_t>(from);
    std::memcpy(&sample, &bits, sizeof sample);
    if (!(std::fabs(sample) <= kMaxSample)) {
      return {"audio", "stems with NaN, infinity or excessively large samples"};
    }
    from += 4;
  }
  return {};
}

}  // namespace stemwire
