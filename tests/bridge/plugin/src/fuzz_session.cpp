// Fuzzes a whole session with arbitrary server output: websocket, peer, transport and rings, while
// an audio thread keeps running.
//
// An input is a list of steps. Half of them build plausible server messages with numbers from the
// input, so that sessions last; the others are raw bytes.
#include <algorithm>
#include <cstdlib>
#include <optional>
#include <string>

#include "net/digest.h"
#include "net/session_transport.h"
#include "server_messages.h"

using namespace stemwire;

namespace {

bool counting_bytes(std::uint8_t* to, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) to[i] = static_cast<std::uint8_t>(i);
  return true;
}

void demand(bool holds) {
  if (!holds) std::abort();
}

class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : data_(data), left_(size) {}
  bool empty() const { return left_ == 0; }
  std::uint8_t byte() {
    if (left_ == 0) return 0;
    --left_;
    return *data_++;
  }
  std::int64_t number() {  // mostly small
    const std::uint8_t first = byte();
    if (first < 200) return first;
    std::int64_t value = 0;
    for (int i = 0; i < (first < 240 ? 2 : 7); ++i) value = value << 8 | byte();
    return value;
  }
  std::string bytes(std::size_t n) {
    n = std::min(n, left_);
    std::string result(reinterpret_cast<const char*>(data_), n);
    data_ += n;
    left_ -= n;
    return result;
  }

 private:
  const std::uint8_t* data_;
  std::size_t left_;
};

constexpr int kRate = 1000;  // small rings are fast to create

// The network thread's work, with the input as the server.
class Conversation {
 public:
  explicit Conversation(bool offline) : buffers_(kRate, 2), offline_(offline) {
    buffers_.delay.store(50);
    buffers_.begin_stream(offline);
    transport_.emplace(buffers_, "fuzz");
    connect();
  }

  void connect() {
    socket_.emplace(counting_bytes);
    sequence_ = 0;
    socket_->open("host", "/stream", "stemwire.1");
    std::uint8_t nonce[16];
    counting_bytes(nonce, sizeof nonce);
    receive("HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Accept: " +
            websocket_accept(base64(nonce, 16)) + "\r\n\r\n");
  }

  void step(Input& input) {
    switch (input.byte() % 16) {
      case 0:
      case 1: play(static_cast<std::size_t>(input.number() % 1000)); break;
      case 2: receive(input.bytes(input.byte())); break;
      case 3: text(input.bytes(input.byte())); break;
      case 4: frame(0x82, input.bytes(input.byte())); break;
      case 5:
      case 6: {
        const std::int64_t ahead = input.number();
        const int stream = static_cast<int>(input.number() & 65535);
        text(server::welcome(ahead, stream, input.number(), "s", input.number(),
                             64 + 64 * input.number()));
        break;
      }
      case 7:
      case 8:
      case 9: {  // mostly the right stems
        const ClientPeer& peer = transport_->peer();
        const auto waiting = std::max<std::int64_t>(0, peer.sent() - peer.received());
        const std::int64_t off = input.byte() % 8 == 0 ? input.number() : 0;
        const auto count =
            static_cast<std::uint32_t>(std::min<std::int64_t>(waiting, input.number() * 16));
        const auto data = server::stems(2, std::min(peer.received() + off, std::int64_t{1} << 50),
                                        count, sequence_++, peer.stream());
        frame(0x82, std::string(data.begin(), data.end()));
        break;
      }
      case 10:
        text(server::state(input.number(), transport_->peer().received() + input.number()));
        break;
      case 11:
        text("{\"type\":\"reset\",\"stream\":" + std::to_string(transport_->peer().stream()) + "}");
        break;
      case 12: buffers_.begin_stream(offline_ = input.byte() & 1); break;
      case 13: buffers_.preset.store(input.byte() & 1); break;
      case 14:
        transport_->disconnected();
        if (input.byte() & 1) transport_->session_lost("cut");
        connect();
        break;
      case 15: text("{\"type\":\"ping\",\"id\":" + std::to_string(input.number()) + "}"); break;
    }
    work();
  }

 private:
  void receive(const std::string& data) {
    socket_->receive(reinterpret_cast<const std::uint8_t*>(data.data()), data.size());
    work();
  }

  void frame(int first, const std::string& payload) {
    std::string data(1, static_cast<char>(first));
    const std::size_t n = payload.size();
    if (n < 126) {
      data += static_cast<char>(n);
    } else {
      const int extra = n < 65536 ? 2 : 8;
      data += static_cast<char>(extra == 2 ? 126 : 127);
      for (int i = extra - 1; i >= 0; --i)
        data += static_cast<char>(std::uint64_t{n} >> (8 * i) & 255);
    }
    receive(data + payload);
  }
  void text(const std::string& payload) { frame(0x81, payload); }

  void end(bool lost) {
    if (lost) transport_->session_lost("fault");
    transport_->disconnected();
    connect();
  }

  void work() {
    if (depth_ > 0) return;  // `connect` calls it again
    ++depth_;
    for (WebSocket::Event event; (event = socket_->next()) != WebSocket::Event::kNone;) {
      ClientPeer::Event result;
      if (event == WebSocket::Event::kOpen) socket_->send_text(transport_->hello("token"));
      if (event == WebSocket::Event::kText) result = transport_->receive_text(socket_->text());
      if (event == WebSocket::Event::kBinary) {
        result = transport_->receive_binary(socket_->message().data(), socket_->message().size());
      }
      if (event == WebSocket::Event::kClosed || event == WebSocket::Event::kFailed ||
          result.kind == ClientPeer::Event::Kind::kError ||
          result.kind == ClientPeer::Event::Kind::kGoodbye) {
        end(result.error.code != "too_slow");
        break;
      }
      if (result.kind == ClientPeer::Event::Kind::kWelcome) {
        socket_->limit_binary(static_cast<std::size_t>(transport_->peer().limits().message));
      }
    }
    transport_->update();
    if (transport_->needs_new_session()) {
      transport_->discard_session();
      connect();
    }
    transport_->send(*socket_);
    socket_->consume_output(socket_->output_size());
    check();
    --depth_;
  }

  // The audio thread's part, with the invariants it relies on.
  void play(std::size_t n) {
    const std::vector<float> silence(n);
    const float* channels[] = {silence.data(), silence.data()};
    buffers_.mixture.write(channels, n);
    const Position from =
        buffers_.mixture.end() - buffers_.delay.load() - static_cast<Position>(n);
    if (from < 0) return;
    std::vector<float> out(n);
    const std::size_t there = buffers_.stems.available(from, n);
    demand(there <= n);
    for (int stem = 0; stem < kStems; ++stem)
      buffers_.stems.read(stem, 0, from, out.data(), there);
    for (std::size_t i = 0; i < there; ++i) demand(out[i] >= -kMaxSample && out[i] <= kMaxSample);
  }

  void check() {
    const Position end = buffers_.mixture.end();
    demand(buffers_.stems.end() <= end);
    demand(buffers_.mixture.kept() <= end);
    const ClientPeer& peer = transport_->peer();
    demand(peer.sent() >= peer.received());
  }

  SharedBuffers buffers_;
  bool offline_;
  std::optional<SessionTransport> transport_;
  std::optional<WebSocket> socket_;
  std::uint32_t sequence_ = 0;
  int depth_ = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  Conversation conversation(input.byte() & 1);
  while (!input.empty()) conversation.step(input);
  return 0;
}
