// Fuzzes the websocket with arbitrary server output, before or after the handshake.
//
// The first byte says whether the handshake is complete, the second how the rest is split.
#include <algorithm>
#include <cstdlib>
#include <string>

#include "net/digest.h"
#include "net/websocket.h"

using stemwire::WebSocket;

namespace {

bool counting_bytes(std::uint8_t* to, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) to[i] = static_cast<std::uint8_t>(i);
  return true;
}

void demand(bool holds) {
  if (!holds) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  const bool opened = data[0] & 1;
  std::size_t step = data[1] + 1u;
  if (data[0] & 2) step = size;
  WebSocket socket(counting_bytes);
  socket.open("host:8765", "/stream", "stemwire.1");
  socket.consume_output(socket.output_size());
  if (opened) {
    std::uint8_t nonce[16];
    counting_bytes(nonce, sizeof nonce);
    const std::string answer =
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Accept: " +
        stemwire::websocket_accept(stemwire::base64(nonce, 16)) + "\r\n\r\n";
    socket.receive(reinterpret_cast<const std::uint8_t*>(answer.data()), answer.size());
    demand(socket.next() == WebSocket::Event::kOpen);
  }
  if (data[0] & 4) socket.limit_binary(1 << 20);
  bool ended = false;
  for (std::size_t at = 2; at < size; at += step) {
    socket.receive(data + at, std::min(step, size - at));
    for (WebSocket::Event event; (event = socket.next()) != WebSocket::Event::kNone;) {
      demand(!ended);  // no event after the end
      ended = event == WebSocket::Event::kClosed || event == WebSocket::Event::kFailed;
      if (event == WebSocket::Event::kText) demand(socket.message().size() <= WebSocket::kMaxText);
      demand(event != WebSocket::Event::kFailed || !socket.problem().empty());
    }
    demand(socket.output_size() <= WebSocket::kMaxOutput);
    if (data[0] & 8) socket.consume_output(socket.output_size());
    else socket.consume_output(socket.output_size() / 2);
  }
  return 0;
}
