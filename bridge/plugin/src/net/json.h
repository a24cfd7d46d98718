// A small, strict JSON reader, and what is needed to write JSON.
//
// Nothing that is read is trusted: size and depth are limited, text must be UTF-8, an object must
// not have a name twice. Nothing depends on the host's locale.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace stemwire {

class Json {
 public:
  enum class Type { kNull, kBool, kNumber, kString, kArray, kObject };

  static constexpr std::size_t kMostBytes = 16384;  // the protocol's limit for text messages
  static constexpr int kMostDepth = 32;

  // False, with `problem` in words for people, for what is not exactly one JSON value.
  static bool parse(std::string_view text, Json& value, std::string& problem,
                    std::size_t most_bytes = kMostBytes);

  Type type = Type::kNull;
  bool boolean = false;
  double number = 0.0;        // finite
  bool whole = false;         // written without point or exponent, and at most 2^53
  std::int64_t integer = 0;   // if whole
  std::string text;           // UTF-8
  std::vector<Json> items;    // of an array, or of an object
  std::vector<std::string> names;  // of an object's items

  bool is(Type wanted) const { return type == wanted; }
  // An object's item, or null.
  const Json* find(std::string_view name) const;
};

// As a JSON string, with its quotes. What is not UTF-8 becomes U+FFFD.
std::string quoted(std::string_view text);

// Bytes of the character that `text` begins with; 0 if that is none in UTF-8.
std::size_t utf8_length(std::string_view text);
bool is_utf8(std::string_view text);
// Code points of UTF-8.
std::size_t characters(std::string_view text);

}  // namespace stemwire
