// A small, strict JSON reader, and what is needed to write JSON.
//
// Input is not trusted: size and depth are limited, text must be UTF-8, and names of an object must
// be unique. Nothing depends on the host's locale. Everything: any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace stemwire {

class Json {
 public:
  enum class Type { kNull, kBool, kNumber, kString, kArray, kObject };

  static constexpr std::size_t kMaxBytes = 16384;  // the protocol's limit for text messages
  static constexpr int kMaxDepth = 32;

  // False with `problem`, for the user, if the text is not exactly one JSON value.
  static bool parse(std::string_view text, Json& value, std::string& problem,
                    std::size_t max_bytes = kMaxBytes);

  Type type = Type::kNull;
  bool boolean = false;
  double number = 0.0;             // finite
  bool is_integer = false;         // written without point or exponent; magnitude at most 2^53
  std::int64_t integer = 0;        // if is_integer
  std::string text;                // UTF-8
  std::vector<Json> items;         // of an array, or of an object
  std::vector<std::string> names;  // of an object's items

  bool is(Type expected) const { return type == expected; }
  // Item of an object by name, or null.
  const Json* find(std::string_view name) const;
};

// The text as a JSON string, with its quotes. Bytes that are not UTF-8 become U+FFFD.
std::string quoted(std::string_view text);

// Bytes of the character that `text` begins with; 0 if it is not UTF-8.
std::size_t utf8_length(std::string_view text);
bool is_utf8(std::string_view text);
// Number of characters of UTF-8 text.
std::size_t code_points(std::string_view text);

}  // namespace stemwire
