// Messages of Stemwire's protocol, version 1, as docs/protocol.md defines them: network thread.
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
constexpr std::int64_t kMaxPosition = std::int64_t{1} << 53;

// An error of the protocol, by its code; an empty code is no error.
struct ProtocolError {
  std::string code, text;
  bool from_server = false;  // reported in an `error` message; else the server is at fault
  explicit operator bool() const { return !code.empty(); }
};

struct Limits {
  std::int64_t message = 64;       // bytes of a frame
  std::int64_t ahead = 1;          // samples
  double grace = 0.0, idle = 0.0;  // seconds
};

// A text message from a server; only the fields of its type are set.
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

// Decodes a text message, which must be UTF-8. Unknown types give kUnknown and are no error.
ProtocolError decode(std::string_view text, ServerMessage& message);

// The text as one line to be shown and logged: no control characters, at most 300 bytes or so.
std::string single_line(std::string_view text);

// What a client requests in hello.
struct SessionRequest {
  int rate = 44100, channels = 2;
  std::string preset = "standard", token, client;
};

struct Resume {
  std::string session, key;
  int stream = 0;
  std::int64_t position = 0;
};

std::string encode_hello(const SessionRequest& request, const Resume* resume);
std::string encode_preset(std::string_view preset, std::int64_t id);
std::string encode_ping(std::int64_t id, std::string_view type = "ping", double time = 0.0);
std::string encode_plain(std::string_view type);  // without fields

// Header of a binary frame.
struct FrameHeader {
  int kind = kMixtureKind, stream = 0;
  std::uint32_t sequence = 0;
  std::int64_t position = 0;
  std::uint32_t count = 0;
};

// Little-endian frame of `plane_count` planes of `head.count` float32 samples each. NaN and samples
// beyond kMaxSample become 0.
std::vector<std::uint8_t> encode_frame(const FrameHeader& head, const float* const* planes,
                                       int plane_count);
// Decodes a frame into `samples`, plane after plane. Errors: `malformed`, `audio`.
ProtocolError decode_frame(const std::uint8_t* data, std::size_t n, int kind, int plane_count,
                           FrameHeader& head, std::vector<float>& samples);

}  // namespace stemwire
