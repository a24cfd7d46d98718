// SHA-1 and base64 for the websocket handshake. SHA-1 protects nothing here; RFC 6455 uses it to
// see that the server understands websockets. Everything: any thread.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace stemwire {

std::array<std::uint8_t, 20> sha1(std::string_view data);
std::string base64(const std::uint8_t* data, std::size_t n);

// The `Sec-WebSocket-Accept` that answers a `Sec-WebSocket-Key`.
std::string websocket_accept(std::string_view key);

}  // namespace stemwire
