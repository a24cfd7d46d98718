// The protocol's test vectors as far as they are a client's, and conversations.
#include <cstring>
#include <fstream>
#include <limits>
#include <sstream>

#include "check.h"
#include "net/client_peer.h"
#include "net/json.h"
#include "net/messages.h"
#include "server_messages.h"

using namespace stemwire;

namespace {

using Kind = ClientPeer::Event::Kind;
using Type = ServerMessage::Type;

Json read_vectors() {
  const std::string here = __FILE__;
  std::ifstream file(here.substr(0, here.rfind('/')) + "/../../../vectors/protocol-1.json");
  std::stringstream text;
  text << file.rdbuf();
  Json vectors;
  std::string problem;
  CHECK(Json::parse(text.str(), vectors, problem, 1 << 20));
  return vectors;
}

std::vector<std::uint8_t> from_hex(const std::string& hex) {
  std::vector<std::uint8_t> data;
  for (std::size_t i = 0; i < hex.size(); i += 2) {
    data.push_back(static_cast<std::uint8_t>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return data;
}

bool from_server(const Json& entry) { return entry.find("from")->text == "server"; }

void test_texts(const Json& vectors) {
  int count = 0;
  for (const Json& entry : vectors.find("text")->items) {
    if (!from_server(entry)) continue;
    ++count;
    const Json& means = *entry.find("means");
    const auto whole = [&](const char* name, std::int64_t is) {
      const Json* item = means.find(name);
      if (item != nullptr && item->whole) CHECK_EQ(item->integer, is);
    };
    const auto text = [&](const char* name, const std::string& is) {
      const Json* item = means.find(name);
      if (item != nullptr && item->is(Json::Type::kString)) CHECK_EQ(item->text, is);
    };
    ServerMessage message;
    const Fault fault = decode(entry.find("text")->text, message);
    check::that(!fault && message.type != Type::kUnknown, __FILE__, __LINE__,
                entry.find("name")->text);
    if (message.type == Type::kStats) continue;  // nobody asks for them here
    whole("id", message.id);
    whole("latency", message.latency);
    whole("position", message.position);
    whole("hop", message.hop);
    whole("stream", message.stream);
    text("session", message.session);
    text("key", message.key);
    text("server", message.server);
    text("preset", message.preset);
    text("code", message.code);
    text("text", message.text);
    text("reason", message.text);
    if (const Json* time = means.find("time")) CHECK_EQ(time->number, message.time);
    if (const Json* limits = means.find("limits")) {
      CHECK_EQ(limits->find("message")->integer, message.limits.message);
      CHECK_EQ(limits->find("ahead")->integer, message.limits.ahead);
      CHECK_EQ(limits->find("grace")->number, message.limits.grace);
      CHECK_EQ(limits->find("idle")->number, message.limits.idle);
    }
  }
  CHECK(count > 10);
  for (const Json& entry : vectors.find("ignored")->items) {
    if (!from_server(entry)) continue;
    ServerMessage message;
    CHECK(!decode(entry.find("text")->text, message));
    CHECK_EQ(message.type, Type::kUnknown);
  }
  for (const Json& entry : vectors.find("refused")->items) {
    ServerMessage message;
    const std::string& text = entry.find("text")->text;
    const std::string code = decode(text, message).code;
    if (from_server(entry)) CHECK_EQ(code, entry.find("error")->text);
    // What no JSON is from a client is none from a server.
    Json value;
    std::string problem;
    if (!Json::parse(text, value, problem)) CHECK(code == "malformed" || code == "too_large");
  }
}

void test_what_a_client_says(const Json& vectors) {
  // Against the vectors' hello with every default.
  for (const Json& entry : vectors.find("text")->items) {
    if (entry.find("name")->text != "the shortest hello") continue;
    Json said;
    std::string problem;
    CHECK(Json::parse(encode_hello({44100, 2, "standard", "", "me"}, nullptr), said, problem));
    const Json& means = *entry.find("means");
    for (std::size_t i = 0; i < said.names.size(); ++i) {
      const Json* meant = means.find(said.names[i]);
      if (!CHECK(meant != nullptr)) continue;
      CHECK_EQ(said.items[i].type, meant->type);
      if (said.items[i].whole) CHECK_EQ(said.items[i].integer, meant->integer);
    }
    CHECK_EQ(said.find("stems")->items[1].text, "instrumental");
    CHECK(said.find("resume") == nullptr);
  }
  const Resume resume{"s\"1", "0123456789abcdef", 7, 123};
  CHECK_EQ(encode_hello({8000, 1, "low", "t\\", "me"}, &resume),
           "{\"type\":\"hello\",\"version\":1,\"token\":\"t\\\\\",\"rate\":8000,\"channels\":1,"
           "\"stems\":[\"vocals\",\"instrumental\"],\"preset\":\"low\",\"resume\":{\"session\":"
           "\"s\\\"1\","
           "\"key\":\"0123456789abcdef\",\"stream\":7,\"position\":123},\"client\":\"me\"}");
  CHECK_EQ(encode_ping(3, "pong", 12.25), "{\"type\":\"pong\",\"id\":3,\"time\":12.25}");
  CHECK_EQ(encode_ping(0, "pong", -1e300),
           "{\"type\":\"pong\",\"id\":0,\"time\":-1.0000000000000001e+300}");
}

void test_frames(const Json& vectors) {
  int count = 0;
  for (const Json& entry : vectors.find("frames")->items) {
    if (entry.find("format")->text != "f32") continue;
    ++count;
    const auto data = from_hex(entry.find("hex")->text);
    const int kind = static_cast<int>(entry.find("kind")->integer);
    const int planes =
        static_cast<int>(entry.find("parts")->integer * entry.find("channels")->integer);
    FrameHead head;
    std::vector<float> samples;
    CHECK(!decode_frame(data.data(), data.size(), kind, planes, head, samples));
    CHECK_EQ(head.stream, entry.find("stream")->integer);
    CHECK_EQ(head.sequence, entry.find("sequence")->integer);
    CHECK_EQ(head.position, entry.find("position")->integer);
    std::size_t at = 0;
    for (const Json& part : entry.find("samples")->items) {
      for (const Json& channel : part.items) {
        for (const Json& sample : channel.items)
          CHECK_EQ(samples.at(at++), static_cast<float>(sample.number));
      }
    }
    CHECK_EQ(at, samples.size());
    std::vector<const float*> pointers;
    for (int p = 0; p < planes; ++p)
      pointers.push_back(samples.data() + static_cast<std::size_t>(p) * head.count);
    CHECK(encode_frame(head, pointers.data(), planes) == data);
  }
  CHECK_EQ(count, 5);
  for (const Json& entry : vectors.find("refused_frames")->items) {
    const auto data = from_hex(entry.find("hex")->text);
    FrameHead head;
    std::vector<float> samples;
    const Fault fault = decode_frame(
        data.data(), data.size(), static_cast<int>(entry.find("kind")->integer),
        static_cast<int>(entry.find("parts")->integer * entry.find("channels")->integer), head,
        samples);
    CHECK_EQ(fault.code, entry.find("error")->text);
  }
  const float bad[] = {std::numeric_limits<float>::quiet_NaN(), 2e6f,
                       -std::numeric_limits<float>::infinity(), 1e6f};
  const float* planes[] = {bad};
  FrameHead head;
  head.count = 4;
  std::vector<float> samples;
  const auto data = encode_frame(head, planes, 1);
  CHECK(!decode_frame(data.data(), data.size(), kMixtureKind, 1, head, samples));
  CHECK(samples == std::vector<float>({0, 0, 0, 1e6f}));
}

// A client that was welcomed.
ClientPeer met(int ahead = 8) {
  ClientPeer peer({8000, 1, "standard", "", "test"});
  peer.connect();
  CHECK(peer.receive_text(server_messages::welcome(ahead)).kind == Kind::kWelcome);
  return peer;
}

ClientPeer::Event stems(ClientPeer& peer, std::int64_t position, std::uint32_t count, std::uint32_t sequence,
                  int stream = 0) {
  const auto data = server_messages::stems(1, position, count, sequence, stream);
  return peer.receive_binary(data.data(), data.size());
}

// Sends n samples.
FrameHead say(ClientPeer& peer, std::size_t n) {
  const std::vector<float> silence(n);
  const float* channels[] = {silence.data()};
  const auto data = peer.mixture(channels, n);
  FrameHead head;
  std::vector<float> samples;
  CHECK(!decode_frame(data.data(), data.size(), kMixtureKind, 1, head, samples));
  CHECK_EQ(head.count, n);
  return head;
}

void fails(const ClientPeer::Event& event, const char* code) {
  CHECK_EQ(event.kind, Kind::kFault);
  CHECK_EQ(event.fault.code, code);
  CHECK(!event.fault.text.empty());
}

void test_flow() {
  ClientPeer peer = met();
  CHECK_EQ(peer.room(), 8);
  CHECK_EQ(peer.most_count(), 250);
  CHECK_EQ(say(peer, 3).sequence, 0u);
  const FrameHead second = say(peer, 5);
  CHECK_EQ(second.sequence, 1u);
  CHECK_EQ(second.position, 3);
  CHECK_EQ(peer.room(), 0);
  const ClientPeer::Event event = stems(peer, 0, 4, 0);
  CHECK_EQ(event.kind, Kind::kAudio);
  CHECK_EQ(event.count, 4u);
  CHECK_EQ(peer.plane(1, event.count)[3], server_messages::sample(1, 3));
  CHECK_EQ(peer.room(), 4);
  const auto gap = peer.skip(4);
  FrameHead head;
  std::vector<float> samples;
  CHECK(!decode_frame(gap.data(), gap.size(), kMixtureKind, 1, head, samples));
  CHECK_EQ(head.position, 12);
  CHECK_EQ(head.count, 0u);
  CHECK_EQ(peer.room(), 0);
  CHECK_EQ(stems(peer, 6, 6, 1).gap, 2);  // the server left out two
  fails(stems(peer, 11, 1, 2), "position");
}

void test_faults_of_servers() {
  const auto met_and = [](auto what) {
    ClientPeer peer = met();
    say(peer, 8);
    what(peer);
  };
  met_and([](ClientPeer& p) { fails(stems(p, 0, 1, 1), "sequence"); });
  met_and([](ClientPeer& p) { fails(stems(p, 0, 1, 0, 1), "sequence"); });
  met_and([](ClientPeer& p) { fails(stems(p, 0, 9, 0), "position"); });
  met_and([](ClientPeer& p) { fails(stems(p, 9, 0, 0), "position"); });
  met_and([](ClientPeer& p) { fails(p.receive_text(server_messages::welcome(8)), "state"); });
  met_and([](ClientPeer& p) {
    fails(p.receive_text("{\"type\":\"flushed\",\"stream\":1,\"position\":8}"), "state");
  });
  met_and([](ClientPeer& p) { fails(p.receive_text("{"), "malformed"); });
  met_and([](ClientPeer& p) {
    const std::uint8_t data[30] = {2};
    fails(p.receive_binary(data, sizeof data), "malformed");
    fails(stems(p, 0, 1, 0), "state");  // it is over
  });
  met_and([](ClientPeer& p) { fails(stems(p, 0, 200, 0), "too_large"); });
  ClientPeer fresh({8000, 1, "standard", "", "test"});
  fails(stems(fresh, 0, 1, 0), "state");
  fails(fresh.receive_text("{\"type\":\"ping\"}"), "state");
  fails(fresh.receive_text(server_messages::welcome(8, 0, 1)), "position");
  const ClientPeer::Event told =
      fresh.receive_text("{\"type\":\"error\",\"code\":\"token\",\"text\":\"a\\u0007b\"}");
  fails(told, "token");
  CHECK(told.fault.from_server);
  CHECK_EQ(told.fault.text, "a b");
  fails(fresh.receive_text("{\"type\":\"error\",\"code\":\"config\",\"text\":\"no\"}"), "config");
  CHECK_EQ(fresh.receive_text("{\"type\":\"error\",\"code\":\"\",\"text\":\"\"}").kind,
           Kind::kFault);
}

void test_small_talk() {
  ClientPeer peer = met();
  CHECK_EQ(peer.receive_text("{\"type\":\"ping\",\"id\":7,\"time\":0.5}").kind, Kind::kNothing);
  CHECK_EQ(peer.take_answers().at(0), "{\"type\":\"pong\",\"id\":7,\"time\":0.5}");
  CHECK(peer.take_answers().empty());
  CHECK_EQ(peer.receive_text("{\"type\":\"song\"}").kind, Kind::kNothing);
  const auto refusal =
      peer.receive_text("{\"type\":\"error\",\"code\":\"config\",\"text\":\"no\",\"id\":1}");
  CHECK_EQ(refusal.kind, Kind::kRefusal);
  CHECK_EQ(refusal.id, 1);
  CHECK(peer.connected());
  CHECK_EQ(peer.receive_text("{\"type\":\"goodbye\",\"reason\":\"x\"}").kind, Kind::kGoodbye);
  CHECK(!peer.connected());
}

void test_streams() {
  ClientPeer peer = met();
  say(peer, 8);
  stems(peer, 0, 2, 0);
  CHECK_EQ(peer.reset(), "{\"type\":\"reset\"}");
  CHECK_EQ(peer.stream(), 1);
  CHECK_EQ(peer.room(), 8);
  const FrameHead head = say(peer, 2);  // at once
  CHECK_EQ(head.stream, 1);
  CHECK_EQ(head.position, 0);
  CHECK_EQ(head.sequence, 1u);
  // What comes before the confirmation is checked for its sequence, and forgotten.
  CHECK_EQ(stems(peer, 2, 2, 1).kind, Kind::kNothing);
  CHECK_EQ(peer.reset(), "{\"type\":\"reset\"}");
  CHECK_EQ(peer.receive_text("{\"type\":\"reset\",\"stream\":1}").kind, Kind::kNothing);
  CHECK_EQ(stems(peer, 0, 2, 2, 1).kind, Kind::kNothing);
  peer.receive_text("{\"type\":\"reset\",\"stream\":2}");
  say(peer, 4);
  CHECK_EQ(stems(peer, 0, 4, 3, 2).kind, Kind::kAudio);
  peer.receive_text("{\"type\":\"reset\",\"stream\":2}");  // again: ignored
  fails(stems(peer, 0, 1, 4, 1), "sequence");
  // Numbers wrap.
  ClientPeer old({8000, 1, "standard", "", "test"});
  old.connect();
  old.receive_text(server_messages::welcome(8, 65535));
  old.reset();
  CHECK_EQ(old.stream(), 0);
}

void test_resume() {
  ClientPeer peer = met();
  say(peer, 8);
  stems(peer, 0, 3, 0);
  peer.disconnected();
  CHECK_EQ(peer.room(), 0);
  const std::string hello = peer.connect();
  CHECK(hello.find("\"resume\":{\"session\":\"s\",\"key\":\"0123456789abcdef\",\"stream\":0,"
                   "\"position\":3}") != std::string::npos);
  const auto event = peer.receive_text(server_messages::welcome(8, 0, 6));
  CHECK(event.resumed);
  CHECK_EQ(peer.sent(), 6);  // from where on mixture is sent again
  CHECK_EQ(say(peer, 2).sequence, 0u);
  CHECK_EQ(stems(peer, 3, 5, 0).gap, 0);
  for (const std::int64_t wrong : {2, 9}) {  // not within what is kept
    ClientPeer other = met();
    say(other, 8);
    stems(other, 0, 3, 0);
    other.connect();
    fails(other.receive_text(server_messages::welcome(8, 0, wrong)), "resume");
  }
  ClientPeer other = met();
  other.connect();
  fails(other.receive_text(server_messages::welcome(8, 1, 0)), "resume");
  other.connect();
  fails(other.receive_text(server_messages::welcome(8, 0, 0, "another")), "resume");
  // A reset while there was no connection: the server takes the stream that it is told.
  ClientPeer lost = met();
  say(lost, 8);
  lost.disconnected();
  CHECK_EQ(lost.reset(), "");
  CHECK(lost.connect().find("\"stream\":1,\"position\":0}") != std::string::npos);
  CHECK(lost.receive_text(server_messages::welcome(8, 1, 0)).resumed);
  CHECK(lost.take_answers().empty());
  CHECK_EQ(say(lost, 1).stream, 1);
  // And one after hello was said.
  lost.disconnected();
  lost.connect();
  lost.reset();
  CHECK(lost.receive_text(server_messages::welcome(8, 1, 1)).resumed);
  CHECK_EQ(lost.take_answers().at(0), "{\"type\":\"reset\"}");
  CHECK_EQ(say(lost, 1).stream, 2);
  CHECK_EQ(stems(lost, 0, 1, 0, 1).kind, Kind::kNothing);
  lost.receive_text("{\"type\":\"reset\",\"stream\":2}");
  CHECK_EQ(stems(lost, 0, 1, 1, 2).kind, Kind::kAudio);
}

void test_presets() {
  ClientPeer peer = met(100);
  CHECK_EQ(peer.latency(), 4);
  CHECK_EQ(peer.choose("low"), "{\"type\":\"control\",\"id\":1,\"preset\":\"low\"}");
  peer.receive_text(server_messages::state(4, 0));  // still the old one
  peer.receive_text(server_messages::state(2, 10));
  CHECK_EQ(peer.latency_at(9), 4);
  CHECK_EQ(peer.latency_at(10), 2);
  CHECK_EQ(peer.run_at(4, 100), 6u);
  CHECK_EQ(peer.run_at(10, 100), 100u);
  peer.receive_text(server_messages::state(2, 3));  // of something else: the change stays where it is
  CHECK_EQ(peer.latency_at(9), 4);
  peer.disconnected();  // the wish is repeated
  peer.connect();
  peer.receive_text(server_messages::welcome(100));
  CHECK_EQ(peer.take_answers().at(0), "{\"type\":\"control\",\"id\":2,\"preset\":\"low\"}");
  peer.reset();
  peer.receive_text(server_messages::state(7, 55));  // of the old stream, but the new one has it too
  CHECK_EQ(peer.latency_at(0), 7);
  for (int i = 0; i < 1000; ++i) peer.receive_text(server_messages::state(i, i));  // takes no memory
  CHECK_EQ(peer.latency(), 999);
}

}  // namespace

int main() {
  const Json vectors = read_vectors();
  test_texts(vectors);
  test_what_a_client_says(vectors);
  test_frames(vectors);
  test_flow();
  test_faults_of_servers();
  test_small_talk();
  test_streams();
  test_resume();
  test_presets();
  return check::result();
}
