// Messages of Stemwire's protocol, version 1: what docs/protocol.md says about bytes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace stemwire {

constexpr int kProtocolVersion = 1;
constexpr std::string_view kSubprotocol = "stemwire.1";
constexpr std::size_t kHeaderBytes = 24;  // of a frame
constexpr int kMixtureKind = 1, kStemsKind = 2;
constexpr std::int64_t kMostPosition = std::int64_t{1} << 53;
constexpr float kLoudest = 1e6f;  // beyond it samples are refused

// What is wrong, by the protocol's codes; an empty code is all well.
struct Fault {
  std::string code, text;
  bool from_server = false;  // told by the server in an `error`; else the server is at fault
  explicit operator bool() const { return !code.empty(); }
};

struct Limits {
  std::int64_t message = 64;  // bytes of a frame
  std::int64_t ahead = 1;     // samples
  double grace = 0.0, idle = 0.0;  // seconds
};

// A text message from a server; fields of its type alone are filled in.
struct ServerMessage {
  enum class Type {
    kUnknown, kWelcome, kState, kFlushed, kReset, kPing, kPong, kStats, kError, kGoodbye
  };
  Type type = Type::kUnknown;
  std::int64_t id = 0, latency = 0, position = 0, hop = 0;
  int stream = 0;
  double time = 0.0;
  std::string session, key, server;  // welcome
  std::string preset;                // state
  std::string code, text;            // error; `text` is goodbye's reason too
  Limits limits;
};

// Unknown types give kUnknown, and are no fault. `text` is UTF-8.
Fault decode(std::string_view text, ServerMessage& message);

// One line that can be shown and logged: no control characters, and not too long.
std::string legible(std::string_view text);

// What a client asks for.
struct Wish {
  int rate = 44100, channels = 2;
  std::string preset = "standard", token, client;
};

struct Resume {
  std::string session, key;
  int stream = 0;
  std::int64_t position = 0;
};

std::string encode_hello(const Wish& wish, const Resume* resume);
std::string encode_preset(std::string_view preset, std::int64_t id);
std::string encode_ping(std::int64_t id, std::string_view type = "ping", double time = 0.0);
std::string encode_plain(std::string_view type);  // without fields

// A frame's header.
struct FrameHead {
  int kind = kMixtureKind, stream = 0;
  std::uint32_t sequence = 0;
  std::int64_t position = 0;
  std::uint32_t count = 0;
};

// Little-endian, `planes` of `head.count` samples of f32 each; NaN and what is too loud becomes 0.
std::vector<std::uint8_t> encode_frame(const FrameHead& head, const float* const* planes,
                                       int plane_count);
// Fills `samples` with plane after plane. Faults: `malformed`, `audio`.
Fault decode_frame(const std::uint8_t* data, std::size_t n, int kind, int plane_count,
                   FrameHead& head, std::vector<float>& samples);

}  // namespace stemwire
