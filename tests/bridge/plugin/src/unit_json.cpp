#include "check.h"
#include "net/digest.h"
#include "net/json.h"

using namespace stemwire;

namespace {

bool reads(std::string_view text) {
  Json value;
  std::string problem;
  const bool read = Json::parse(text, value, problem);
  CHECK(read == problem.empty());
  return read;
}

Json value_of(std::string_view text) {
  Json value;
  std::string problem;
  CHECK(Json::parse(text, value, problem));
  return value;
}

void test_values() {
  CHECK(value_of(" null ").is(Json::Type::kNull));
  CHECK(value_of("true").boolean);
  CHECK(!value_of("false").boolean);
  const Json list = value_of("[1, -2.5, \"x\", [], {}]");
  CHECK_EQ(list.items.size(), 5u);
  CHECK_EQ(list.items[0].integer, 1);
  CHECK_EQ(list.items[1].number, -2.5);
  const Json object = value_of("{\"a\": {\"b\": 7}, \"\": 1}");
  CHECK_EQ(object.find("a")->find("b")->integer, 7);
  CHECK_EQ(object.find("")->integer, 1);
  CHECK(object.find("c") == nullptr);
  for (const char* bad : {"",
                          " ",
                          "{",
                          "[",
                          "[1",
                          "[1,",
                          "[1,]",
                          "{\"a\"}",
                          "{\"a\":}",
                          "{\"a\":1,}",
                          "{a:1}",
                          "{,}",
                          "nul",
                          "tru",
                          "True",
                          "NaN",
                          "Infinity",
                          "-Infinity",
                          "1 2",
                          "{} {}",
                          "'x'",
                          "[1 2]",
                          "\"",
                          "\"\\\"",
                          "//",
                          "[\x0b]",
                          "\xEF\xBB\xBF{}",
                          "{\"a\":1,\"a\":2}",
                          "{\"a\":1,\"\\u0061\":2}"}) {
    CHECK(!reads(bad));
  }
  CHECK(!reads(std::string_view("{}\0", 3)));
}

void test_numbers() {
  CHECK_EQ(value_of("9007199254740992").integer, std::int64_t{1} << 53);
  CHECK_EQ(value_of("-9007199254740992").integer, -(std::int64_t{1} << 53));
  CHECK(!value_of("9007199254740993").is_integer);
  CHECK(!value_of("18446744073709551616").is_integer);
  CHECK_EQ(value_of("18446744073709551616").number, 18446744073709551616.0);
  CHECK(!value_of("1.0").is_integer);
  CHECK(!value_of("1e2").is_integer);
  CHECK_EQ(value_of("1e2").number, 100.0);
  CHECK_EQ(value_of("-1.25e1").number, -12.5);
  CHECK_EQ(value_of("12.25").number, 12.25);
  CHECK_EQ(value_of("0.1").number, 0.1);
  CHECK_EQ(value_of("2.5E-3").number, 0.0025);
  CHECK_EQ(value_of("1e-400").number, 0.0);
  CHECK_EQ(value_of("0e99999999999").number, 0.0);
  for (const char* bad :
       {"01", "-", "-a", ".5", "1.", "1.e1", "1e", "1e+", "+1", "0x1", "1e400", "-1e400", "1_0"}) {
    CHECK(!reads(bad));
  }
}

void test_strings() {
  CHECK_EQ(value_of("\"a\\n\\t\\\\\\/\\\"\\u00fc\\ud83c\\udfa4\"").text,
           "a\n\t\\/\"\xC3\xBC\xF0\x9F\x8E\xA4");
  CHECK_EQ(value_of("\"\xE2\x99\xAB\"").text, "\xE2\x99\xAB");
  CHECK_EQ(value_of("\"\\u0000\"").text, std::string("\0", 1));
  for (const char* bad :
       {"\"\n\"", "\"\\x\"", "\"\\u12\"", "\"\\u12g4\"", "\"\\ud83c\"", "\"\\ud83cx\"",
        "\"\\ud83c\\u0041\"", "\"\\udfa4\"", "\"\xC0\x80\"", "\"\xED\xA0\x80\"",
        "\"\xF4\x90\x80\x80\"", "\"\x80\"", "\"\xE2\x99\"", "\"\xFF\""}) {
    CHECK(!reads(bad));
  }
  CHECK_EQ(quoted("a\"b\\c\n\x7f"), "\"a\\\"b\\\\c\\u000a\\u007f\"");
  CHECK_EQ(quoted("\xE2\x99\xAB"), "\"\xE2\x99\xAB\"");
  CHECK_EQ(quoted("\xFFx"), "\"\xEF\xBF\xBDx\"");
  for (int c = 0; c < 256; ++c) {  // any quoted text can be read
    const std::string text = "x" + std::string(1, static_cast<char>(c)) + "y";
    const std::string back = value_of(quoted(text)).text;
    CHECK_EQ(back, c < 128 ? text : "x\xEF\xBF\xBDy");
  }
  CHECK_EQ(code_points("a\xC3\xBC\xF0\x9F\x8E\xA4"), 3u);
}

void test_limits() {
  std::string deep(Json::kMaxDepth, '[');
  deep += std::string(Json::kMaxDepth, ']');
  CHECK(reads(deep));
  CHECK(!reads("[[" + deep + "]]"));
  CHECK(!reads(std::string(16000, '[')));
  CHECK(!reads("\"" + std::string(Json::kMaxBytes, 'x') + "\""));
  CHECK(reads("\"" + std::string(Json::kMaxBytes - 2, 'x') + "\""));
}

void test_digest() {
  const auto hex = [](std::string_view of) {
    std::string text;
    for (const auto byte : sha1(of)) {
      text += "0123456789abcdef"[byte >> 4];
      text += "0123456789abcdef"[byte & 15];
    }
    return text;
  };
  // FIPS 180-4's examples.
  CHECK_EQ(hex(""), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
  CHECK_EQ(hex("abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
  CHECK_EQ(hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
           "84983e441c3bd26ebaae4aa1f95129e5e54670f1");
  CHECK_EQ(hex(std::string(1000000, 'a')), "34aa973cd4c4daa4f61eeb2bdbad27316534016f");
  const auto encoded = [](std::string_view of) {
    return base64(reinterpret_cast<const std::uint8_t*>(of.data()), of.size());
  };
  // RFC 4648's examples.
  CHECK_EQ(encoded(""), "");
  CHECK_EQ(encoded("f"), "Zg==");
  CHECK_EQ(encoded("fo"), "Zm8=");
  CHECK_EQ(encoded("foo"), "Zm9v");
  CHECK_EQ(encoded("foobar"), "Zm9vYmFy");
  // RFC 6455's, section 1.3.
  CHECK_EQ(websocket_accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

}  // namespace

int main() {
  test_values();
  test_numbers();
  test_strings();
  test_limits();
  test_digest();
  return check::result();
}
