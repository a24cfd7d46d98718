// Messages of a server, for tests.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "net/messages.h"

// Messages and frames as a server sends them.
namespace server {

inline std::string welcome(std::int64_t ahead, int stream = 0, std::int64_t position = 0,
                           const std::string& session = "s", std::int64_t latency = 4,
                           std::int64_t message = 1024) {
  return "{\"type\":\"welcome\",\"version\":1,\"session\":\"" + session +
         "\",\"key\":\"0123456789abcdef\",\"latency\":" + std::to_string(latency) +
         ",\"hop\":4,\"stream\":" + std::to_string(stream) +
         ",\"position\":" + std::to_string(position) +
         ",\"limits\":{\"message\":" + std::to_string(message) +
         ",\"ahead\":" + std::to_string(ahead) + ",\"grace\":30,\"idle\":60}}";
}

inline std::string state(std::int64_t latency, std::int64_t position) {
  return "{\"type\":\"state\",\"id\":1,\"vocals\":0,\"instrumental\":0,\"mute\":false,\"bypass\":"
         "false,"
         "\"preset\":\"low\",\"effects\":{},\"latency\":" +
         std::to_string(latency) + ",\"position\":" + std::to_string(position) + "}";
}

// A sample of the stems; differs for each plane and position.
inline float sample(int plane, std::int64_t position) {
  return static_cast<float>(plane + 1) + static_cast<float>(position) / 16777216.0f;
}

inline std::vector<std::uint8_t> stems(int channels, std::int64_t position, std::uint32_t count,
                                       std::uint32_t sequence, int stream = 0) {
  const int planes = 2 * channels;
  std::vector<std::vector<float>> samples(static_cast<std::size_t>(planes),
                                          std::vector<float>(count));
  std::vector<const float*> pointers;
  for (int plane = 0; plane < planes; ++plane) {
    auto& of = samples[static_cast<std::size_t>(plane)];
    for (std::uint32_t i = 0; i < count; ++i) of[i] = sample(plane, position + i);
    pointers.push_back(of.data());
  }
  stemwire::FrameHeader head;
  head.kind = stemwire::kStemsKind;
  head.stream = stream;
  head.sequence = sequence;
  head.position = position;
  head.count = count;
  return stemwire::encode_frame(head, pointers.data(), planes);
}

}  // namespace server
