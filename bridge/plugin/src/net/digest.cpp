#include "net/digest.h"

namespace stemwire {
namespace {

std::uint32_t rotated(std::uint32_t x, int by) { return x << by | x >> (32 - by); }

// FIPS 180-4, section 6.1.2.
void mix(std::array<std::uint32_t, 5>& state, const std::uint8_t* block) {
  std::uint32_t words[80];
  for (int t = 0; t < 16; ++t) {
    const std::uint8_t* p = block + 4 * t;
    words[t] =
        std::uint32_t{p[0]} << 24 | std::uint32_t{p[1]} << 16 | std::uint32_t{p[2]} << 8 | p[3];
  }
  for (int t = 16; t < 80; ++t) {
    words[t] = rotated(words[t - 3] ^ words[t - 8] ^ words[t - 14] ^ words[t - 16], 1);
  }
  auto [a, b, c, d, e] = state;
  for (int t = 0; t < 80; ++t) {
    std::uint32_t f, k;
    if (t < 20) f = (b & c) | (~b & d), k = 0x5a827999;
    else if (t < 40) f = b ^ c ^ d, k = 0x6ed9eba1;
    else if (t < 60) f = (b & c) | (b & d) | (c & d), k = 0x8f1bbcdc;
    else f = b ^ c ^ d, k = 0xca62c1d6;
    const std::uint32_t next = rotated(a, 5) + f + e + k + words[t];
    e = d;
    d = c;
    c = rotated(b, 30);
    b = a;
    a = next;
  }
  state[0] += a;
  state[1] += b;
  state[2] += c;
  state[3] += d;
  state[4] += e;
}

}  // namespace

std::array<std::uint8_t, 20> sha1(std::string_view data) {
  std::string padded(data);
  padded.push_back('\x80');
  while (padded.size() % 64 != 56) padded.push_back('\0');
  const std::uint64_t bits = std::uint64_t{data.size()} * 8;
  for (int shift = 56; shift >= 0; shift -= 8)
    padded.push_back(static_cast<char>(bits >> shift & 255));
  std::array<std::uint32_t, 5> state = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
  for (std::size_t at = 0; at < padded.size(); at += 64) {
    mix(state, reinterpret_cast<const std::uint8_t*>(padded.data()) + at);
  }
  std::array<std::uint8_t, 20> digest;
  for (std::size_t i = 0; i < digest.size(); ++i) {
    digest[i] = static_cast<std::uint8_t>(state[i / 4] >> (24 - 8 * (i % 4)) & 255);
  }
  return digest;
}

std::string base64(const std::uint8_t* data, std::size_t n) {
  static constexpr char kLetters[] =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string result;
  for (std::size_t at = 0; at < n; at += 3) {
    std::uint32_t three = std::uint32_t{data[at]} << 16;
    if (at + 1 < n) three |= std::uint32_t{data[at + 1]} << 8;
    if (at + 2 < n) three |= data[at + 2];
    result += kLetters[three >> 18];
    result += kLetters[three >> 12 & 63];
    result += at + 1 < n ? kLetters[three >> 6 & 63] : '=';
    result += at + 2 < n ? kLetters[three & 63] : '=';
  }
  return result;
}

std::string websocket_accept(std::string_view key) {
  const auto digest = sha1(std::string(key) + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
  return base64(digest.data(), digest.size());
}

}  // namespace stemwire
