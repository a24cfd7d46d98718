#include <cstring>
#include <set>
#include <vector>

#include "check.h"
#include "net/digest.h"
#include "net/websocket.h"

using namespace stemwire;

namespace {

using Event = WebSocket::Event;
using Bytes = std::vector<std::uint8_t>;

// The key and the mask of RFC 6455's examples.
bool rfc_random(std::uint8_t* to, std::size_t n) {
  const std::uint8_t mask[4] = {0x37, 0xfa, 0x21, 0x3d};
  for (std::size_t i = 0; i < n; ++i) to[i] = mask[i % 4];
  if (n == 16) std::memcpy(to, "the sample nonce", 16);
  return true;
}

bool no_random(std::uint8_t*, std::size_t) { return false; }

Bytes bytes(std::initializer_list<int> list) {
  Bytes result;
  for (const int byte : list) result.push_back(static_cast<std::uint8_t>(byte));
  return result;
}

Bytes take_output(WebSocket& socket) {
  Bytes result(socket.output(), socket.output() + socket.output_size());
  socket.consume_output(result.size());
  return result;
}

void receive(WebSocket& socket, std::string_view text) {
  socket.receive(reinterpret_cast<const std::uint8_t*>(text.data()), text.size());
}
void receive(WebSocket& socket, const Bytes& data) { socket.receive(data.data(), data.size()); }

constexpr char kAccept[] = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
constexpr char kHead[] =
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";

WebSocket connecting_socket() {
  WebSocket socket(rfc_random);
  socket.open("server.example.com", "/stream", "stemwire.1");
  return socket;
}

WebSocket open_socket() {
  WebSocket socket = connecting_socket();
  receive(socket, std::string(kHead) + kAccept + "\r\n");
  CHECK_EQ(socket.next(), Event::kOpen);
  take_output(socket);
  return socket;
}

// Bytes of an unmasked frame.
Bytes frame(int first, std::string_view payload, int force = 0) {
  Bytes result = bytes({first});
  const std::size_t n = payload.size();
  const int extra = force ? force : n < 126 ? 0 : n < 65536 ? 2 : 8;
  result.push_back(static_cast<std::uint8_t>(extra == 0 ? n : extra == 2 ? 126 : 127));
  for (int i = extra - 1; i >= 0; --i)
    result.push_back(static_cast<std::uint8_t>(std::uint64_t{n} >> (8 * i)));
  result.insert(result.end(), payload.begin(), payload.end());
  return result;
}

void test_handshake() {
  WebSocket socket = connecting_socket();
  const Bytes sent = take_output(socket);
  const std::string request(sent.begin(), sent.end());
  CHECK_EQ(request,
           "GET /stream HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n"
           "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
           "Sec-WebSocket-Protocol: stemwire.1\r\nSec-WebSocket-Version: 13\r\n\r\n");
  CHECK_EQ(socket.next(), Event::kNone);
  // Byte by byte, in mixed case, with other headers, and a frame right after it.
  const std::string answer =
      "HTTP/1.1 101 x\r\nServer: y\r\nUPGRADE: WebSocket\r\nconnection:keep-alive , upgrade\r\n"
      "sec-websocket-accept:\ts3pPLMBiTxaQ9kYGzzhZRbK+xOo= \r\nSec-WebSocket-Protocol: "
      "stemwire.1\r\n\r\n";
  for (std::size_t i = 0; i + 1 < answer.size(); ++i) {
    receive(socket, answer.substr(i, 1));
    CHECK_EQ(socket.next(), Event::kNone);
  }
  Bytes rest = frame(0x81, "hi");
  rest.insert(rest.begin(), '\n');
  receive(socket, rest);
  CHECK_EQ(socket.next(), Event::kOpen);
  CHECK_EQ(socket.next(), Event::kText);
  CHECK_EQ(socket.text(), "hi");
  CHECK_EQ(socket.next(), Event::kNone);
}

void test_bad_handshakes() {
  const std::string head = kHead, accept = kAccept;
  const std::string bad[] = {
      "SSH-2.0-OpenSSH\r\n",
      "garbage",
      "\r\n\r\n",
      "HTTP/1.1 101\r\n\r\n",                                      // no required headers
      "HTTP/1.0 101 x\r\n" + head.substr(head.find("Up")) + accept + "\r\n",
      head + "\r\n",                                               // no key
      head + "Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n",
      head + accept + accept + "\r\n",
      head + accept + "Sec-WebSocket-Protocol: chat\r\n\r\n",
      head + accept + "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
      head + accept + "no colon\r\n\r\n",
      head + accept + ": no name\r\n\r\n",
      "HTTP/1.1 101 x\r\nUpgrade: websocket\r\n" + accept + "\r\n",
      "HTTP/1.1 101 x\r\nConnection: upgrade\r\n" + accept + "\r\n",
      "HTTP/1.1 1x1 x\r\n\r\n",
      "HTTP/1.1 1011\r\n\r\n",
      "HTTP/1.1 " + std::string(20000, 'x'),
      head + "X: " + std::string(20000, 'x') + "\r\n\r\n",
  };
  for (const std::string& answer : bad) {
    WebSocket socket = connecting_socket();
    receive(socket, answer);
    CHECK_EQ(socket.next(), Event::kFailed);
    CHECK(!socket.problem().empty());
    CHECK_EQ(socket.next(), Event::kNone);
    CHECK(!socket.send_text("x"));
  }
  std::string many = head + accept;
  for (int i = 0; i < 200; ++i) many += "X: y\r\n";
  WebSocket socket = connecting_socket();
  receive(socket, many + "\r\n");
  CHECK_EQ(socket.next(), Event::kFailed);
}

void test_refusals() {
  const struct {
    const char* answer;
    int status;
    const char* says;
  } kCases[] = {
      {"HTTP/1.1 401 Unauthorized\r\n\r\n", 401, "token"},
      {"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", 403, "token"},
      {"HTTP/1.1 404 Not Found\r\n\r\n", 404, "nothing there"},
      {"HTTP/1.1 302 Found\r\nLocation: http://other/\x1b[31m\r\n\r\n", 302, "http://other/?[31m"},
      {"HTTP/1.1 503\r\n\r\n", 503, "later"},
      {"HTTP/1.0 200 OK\r\n\r\n<html>", 200, "not a websocket"},
  };
  for (const auto& one : kCases) {
    WebSocket socket = connecting_socket();
    receive(socket, one.answer);
    CHECK_EQ(socket.next(), Event::kFailed);
    CHECK_EQ(socket.http_status(), one.status);
    CHECK(socket.problem().find(one.says) != std::string::npos);
  }
}

void test_frames_out() {
  WebSocket socket = open_socket();
  CHECK(socket.send_text("Hello"));  // RFC 6455, 5.7: a masked text message
  CHECK(take_output(socket) ==
        bytes({0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58}));
  const Bytes data(256, 1);
  CHECK(socket.send_binary(data.data(), data.size()));
  Bytes sent = take_output(socket);
  CHECK_EQ(sent.size(), 4u + 4u + 256u);
  CHECK(Bytes(sent.begin(), sent.begin() + 4) == bytes({0x82, 0xFE, 0x01, 0x00}));
  const Bytes more(65536, 2);
  CHECK(socket.send_binary(more.data(), more.size()));
  sent = take_output(socket);
  CHECK(Bytes(sent.begin(), sent.begin() + 10) == bytes({0x82, 0xFF, 0, 0, 0, 0, 0, 1, 0, 0}));
  CHECK_EQ(sent[14], 2 ^ 0x37);
  CHECK(socket.send_text(""));
  CHECK(take_output(socket) == bytes({0x81, 0x80, 0x37, 0xfa, 0x21, 0x3d}));
  socket.close(1008, "why");
  CHECK(!socket.send_text("too late"));
  CHECK(take_output(socket) == bytes({0x88, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x03 ^ 0x37, 0xF0 ^ 0xfa,
                                'w' ^ 0x21, 'h' ^ 0x3d, 'y' ^ 0x37}));
}

void test_masks_differ() {
  WebSocket socket;
  socket.open("h", "/", "p");
  const Bytes sent = take_output(socket);
  const std::string request(sent.begin(), sent.end());
  const std::size_t at = request.find("Key: ") + 5;
  const std::string key = request.substr(at, request.find("\r\n", at) - at);
  receive(socket,
          std::string(kHead) + "Sec-WebSocket-Accept: " + websocket_accept(key) + "\r\n\r\n");
  CHECK_EQ(socket.next(), Event::kOpen);
  std::set<Bytes> masks;
  for (int i = 0; i < 1000; ++i) {
    socket.send_text("x");
    const Bytes sent = take_output(socket);
    masks.insert(Bytes(sent.begin() + 2, sent.begin() + 6));
  }
  CHECK(masks.size() > 990);
  WebSocket poor(no_random);
  poor.open("h", "/", "p");
  CHECK_EQ(poor.output_size(), 0u);
  CHECK(poor.problem().find("random") != std::string::npos);
}

void test_frames_in() {
  WebSocket socket = open_socket();
  receive(socket, bytes({0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f}));  // RFC 6455, 5.7
  CHECK_EQ(socket.next(), Event::kText);
  CHECK_EQ(socket.text(), "Hello");
  // Fragments, with a ping between them; the answer is a masked pong.
  receive(socket, bytes({0x01, 0x03, 0x48, 0x65, 0x6c}));
  CHECK_EQ(socket.next(), Event::kNone);
  receive(socket, bytes({0x89, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x80, 0x02, 0x6c, 0x6f}));
  CHECK_EQ(socket.next(), Event::kText);
  CHECK_EQ(socket.text(), "Hello");
  CHECK(take_output(socket) ==
        bytes({0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58}));
  // All lengths, byte by byte and at once.
  socket.limit_binary(1 << 20);
  for (const std::size_t n : {0, 1, 125, 126, 127, 65535, 65536, 70000}) {
    std::string payload(n, 'x');
    for (std::size_t i = 0; i < n; ++i) payload[i] = static_cast<char>(i * 7);
    const Bytes whole = frame(0x82, payload);
    receive(socket, whole);
    CHECK_EQ(socket.next(), Event::kBinary);
    CHECK_EQ(socket.text(), payload);
    if (n > 1000) continue;
    for (std::size_t i = 0; i + 1 < whole.size(); ++i) {
      receive(socket, Bytes(1, whole[i]));
      CHECK_EQ(socket.next(), Event::kNone);
    }
    receive(socket, Bytes(1, whole.back()));
    CHECK_EQ(socket.next(), Event::kBinary);
    CHECK_EQ(socket.text(), payload);
  }
  // Several in one piece.
  Bytes several = frame(0x81, "a");
  for (const Bytes& next :
       {frame(0x8A, "pong"), frame(0x02, "b"), frame(0x00, ""), frame(0x80, "c")}) {
    several.insert(several.end(), next.begin(), next.end());
  }
  receive(socket, several);
  CHECK_EQ(socket.next(), Event::kText);
  CHECK_EQ(socket.text(), "a");
  CHECK_EQ(socket.next(), Event::kBinary);
  CHECK_EQ(socket.text(), "bc");
  CHECK_EQ(socket.next(), Event::kNone);
}

void test_bad_frames() {
  const struct {
    const char* what;
    Bytes data;
    int code;
  } kCases[] = {
      {"masked", bytes({0x81, 0x81, 1, 2, 3, 4, 5}), 1002},
      {"RSV1", frame(0xC1, "x"), 1002},
      {"RSV2", frame(0xA1, "x"), 1002},
      {"RSV3", frame(0x91, "x"), 1002},
      {"opcode 3", frame(0x83, "x"), 1002},
      {"opcode 15", frame(0x8F, "x"), 1002},
      {"a continuation of nothing", frame(0x80, "x"), 1002},
      {"a ping in fragments", frame(0x09, "x"), 1002},
      {"a long ping", frame(0x89, std::string(126, 'x')), 1002},
      {"a length that could be shorter", frame(0x82, "x", 2), 1002},
      {"and in 64 bits", frame(0x82, std::string(200, 'x'), 8), 1002},
      {"a length of 2^63", bytes({0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0}), 1002},
      {"a length of 2^62", bytes({0x82, 127, 0x40, 0, 0, 0, 0, 0, 0, 0}), 1009},
      {"a text that is too long", bytes({0x81, 126, 0x40, 0x01}), 1009},
      {"text that is no UTF-8", frame(0x81, "\xC0\x80"), 1007},
      {"a close of one byte", frame(0x88, "x"), 1002},
      {"a close with an invalid code", frame(0x88, "\x03\xED"), 1002},
      {"a close with code 0", frame(0x88, std::string(2, '\0')), 1002},
      {"a close whose reason is no UTF-8", frame(0x88, "\x03\xE8\xFF"), 1007},
  };
  for (const auto& one : kCases) {
    WebSocket socket = open_socket();
    receive(socket, one.data);
    check::that(socket.next() == Event::kFailed, __FILE__, __LINE__, one.what);
    CHECK_EQ(socket.code(), one.code);
    const Bytes sent = take_output(socket);  // a close frame with the code
    CHECK(sent.size() >= 8 && sent[0] == 0x88);
    CHECK_EQ((sent[6] ^ 0x37) << 8 | (sent[7] ^ 0xfa), one.code);
    receive(socket, frame(0x81, "x"));
    CHECK_EQ(socket.next(), Event::kNone);
  }
  WebSocket socket = open_socket();
  receive(socket, frame(0x01, "x"));
  receive(socket, frame(0x81, "y"));
  CHECK_EQ(socket.next(), Event::kFailed);
  // Fragments that are too long together; until the limit is set, that on text applies to binary.
  WebSocket other = open_socket();
  receive(other, frame(0x02, std::string(16000, 'x')));
  CHECK_EQ(other.next(), Event::kNone);
  receive(other, frame(0x80, std::string(385, 'x')));
  CHECK_EQ(other.next(), Event::kFailed);
  CHECK_EQ(other.code(), 1009);
}

void test_close() {
  WebSocket socket = open_socket();
  receive(socket, frame(0x88, "\x03\xE9" "bye\n"));
  CHECK_EQ(socket.next(), Event::kClosed);
  CHECK_EQ(socket.code(), 1001);
  CHECK_EQ(socket.problem(), "bye");
  CHECK_EQ(take_output(socket).size(), 8u);  // the code is echoed
  CHECK_EQ(socket.next(), Event::kNone);
  WebSocket silent = open_socket();
  receive(silent, frame(0x88, ""));
  CHECK_EQ(silent.next(), Event::kClosed);
  CHECK_EQ(silent.code(), WebSocket::kNoCode);
  // A reason that is too long is cut between characters.
  WebSocket wordy = open_socket();
  std::string reason;
  for (int i = 0; i < 100; ++i) reason += "\xC3\xBC";
  wordy.close(1008, reason);
  CHECK_EQ(take_output(wordy).size(), 6u + 2u + 122u);
}

void test_output_is_bounded() {
  WebSocket socket = open_socket();
  const Bytes data(100000, 0);
  int sent = 0;
  while (sent < 100 && socket.send_binary(data.data(), data.size())) ++sent;
  CHECK_EQ(sent, 10);
  CHECK(socket.output_size() <= WebSocket::kMaxOutput);
  CHECK(!socket.is_open());
  // Pings alone neither fill the output nor end the connection.
  WebSocket pinged = open_socket();
  for (int i = 0; i < 100000; ++i) {
    receive(pinged, frame(0x89, std::string(125, 'x')));
    if (pinged.next() != Event::kNone) CHECK(false);
  }
  CHECK(pinged.output_size() <= WebSocket::kMaxOutput);
  CHECK(pinged.is_open());
}

}  // namespace

int main() {
  test_handshake();
  test_bad_handshakes();
  test_refusals();
  test_frames_out();
  test_masks_differ();
  test_frames_in();
  test_bad_frames();
  test_close();
  test_output_is_bounded();
  return check::result();
}
