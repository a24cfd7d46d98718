#include "net/json.h"

#include <algorithm>
#include <cmath>

namespace stemwire {
namespace {

constexpr std::int64_t kMaxInteger = std::int64_t{1} << 53;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

void append_utf8(std::string& to, std::uint32_t point) {
  const auto put = [&](std::uint32_t byte) { to.push_back(static_cast<char>(byte)); };
  if (point < 0x80) {
    put(point);
  } else if (point < 0x800) {
    put(0xC0 | point >> 6);
    put(0x80 | (point & 0x3F));
  } else if (point < 0x10000) {
    put(0xE0 | point >> 12);
    put(0x80 | (point >> 6 & 0x3F));
    put(0x80 | (point & 0x3F));
  } else {
    put(0xF0 | point >> 18);
    put(0x80 | (point >> 12 & 0x3F));
    put(0x80 | (point >> 6 & 0x3F));
    put(0x80 | (point & 0x3F));
  }
}

class Reader {
 public:
  Reader(std::string_view text, std::string& problem) : text_(text), problem_(problem) {}

  bool document(Json& value) {
    skip_blanks();
    if (!read(value, 0)) return false;
    skip_blanks();
    return at_ == text_.size() || fail("unexpected text after the end");
  }

 private:
  bool fail(const char* what) {
    if (problem_.empty()) problem_ = std::string(what) + " at byte " + std::to_string(at_);
    return false;
  }

  bool at_end() const { return at_ >= text_.size(); }
  char peek() const { return at_end() ? '\0' : text_[at_]; }

  bool take(char c) {
    if (at_end() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  void skip_blanks() {
    while (peek() == ' ' || peek() == '\t' || peek() == '\n' || peek() == '\r') ++at_;
  }

  bool read(Json& value, int depth) {
    if (depth > Json::kMaxDepth) return fail("nested too deeply");
    if (at_end()) return fail("unexpected end");
    switch (peek()) {
      case '{': return object(value, depth);
      case '[': return array(value, depth);
      case '"': value.type = Json::Type::kString; return string(value.text);
      case 't': value.boolean = true; return literal("true", value, Json::Type::kBool);
      case 'f': return literal("false", value, Json::Type::kBool);
      case 'n': return literal("null", value, Json::Type::kNull);
      default: return number(value);
    }
  }

  bool literal(std::string_view expected, Json& value, Json::Type type) {
    if (text_.substr(at_, expected.size()) != expected) return fail("not JSON");
    at_ += expected.size();
    value.type = type;
    return true;
  }

  bool object(Json& value, int depth) {
    value.type = Json::Type::kObject;
    ++at_;
    skip_blanks();
    if (take('}')) return true;
    do {
      skip_blanks();
      std::string name;
      if (peek() != '"') return fail("expected a name");
      if (!string(name)) return false;
      skip_blanks();
      if (!take(':')) return fail("expected ':'");
      skip_blanks();
      value.names.push_back(std::move(name));
      if (!read(value.items.emplace_back(), depth + 1)) return false;
      skip_blanks();
    } while (take(','));
    if (!take('}')) return fail("expected ',' or '}'");
    std::vector<std::string_view> sorted(value.names.begin(), value.names.end());
    std::sort(sorted.begin(), sorted.end());
    if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end()) {
      return fail("an object has the same name twice");
    }
    return true;
  }

  bool array(Json& value, int depth) {
    value.type = Json::Type::kArray;
    ++at_;
    skip_blanks();
    if (take(']')) return true;
    do {
      skip_blanks();
      if (!read(value.items.emplace_back(), depth + 1)) return false;
      skip_blanks();
    } while (take(','));
    return take(']') || fail("expected ',' or ']'");
  }

  bool string(std::string& to) {
    ++at_;
    while (!at_end()) {
      const unsigned char c = static_cast<unsigned char>(text_[at_]);
      if (c == '"') {
        ++at_;
        return true;
      }
      if (c < 0x20) return fail("a control character in a string");
      if (c == '\\') {
        if (!escape(to)) return false;
        continue;
      }
      const std::size_t length = utf8_length(text_.substr(at_));
      if (length == 0) return fail("not UTF-8");
      to.append(text_, at_, length);
      at_ += length;
    }
    return fail("an unterminated string");
  }

  bool escape(std::string& to) {
    ++at_;
    if (at_end()) return fail("an unterminated string");
    static constexpr std::string_view kNames = "\"\\/bfnrt", kMeanings = "\"\\/\b\f\n\r\t";
    if (const auto found = kNames.find(peek()); found != std::string_view::npos) {
      to.push_back(kMeanings[found]);
      ++at_;
      return true;
    }
    if (!take('u')) return fail("an unknown escape");
    std::uint32_t point = 0;
    if (!hex(point)) return false;
    if (point >= 0xD800 && point < 0xDC00) {  // the first half of a pair
      std::uint32_t second = 0;
      if (!take('\\') || !take('u')) return fail("half a surrogate pair");
      if (!hex(second)) return false;
      if (second < 0xDC00 || second > 0xDFFF) return fail("half a surrogate pair");
      point = 0x10000 + ((point - 0xD800) << 10) + (second - 0xDC00);
    } else if (point >= 0xDC00 && point <= 0xDFFF) {
      return fail("half a surrogate pair");
    }
    append_utf8(to, point);
    return true;
  }

  bool hex(std::uint32_t& point) {
    for (int i = 0; i < 4; ++i, ++at_) {
      const char c = peek();
      std::uint32_t digit;
      if (is_digit(c)) digit = static_cast<std::uint32_t>(c - '0');
      else if (c >= 'a' && c <= 'f') digit = static_cast<std::uint32_t>(c - 'a' + 10);
      else if (c >= 'A' && c <= 'F') digit = static_cast<std::uint32_t>(c - 'A' + 10);
      else return fail("expected a hexadecimal digit");
      point = point << 4 | digit;
    }
    return true;
  }

  // Not strtod, which expects a decimal comma in some locales of hosts.
  bool number(Json& value) {
    value.type = Json::Type::kNumber;
    value.is_integer = true;
    const bool negative = take('-');
    if (!is_digit(peek())) return fail("not JSON");
    long double digits = 0.0L;
    int shift = 0;
    if (!take('0')) {
      for (; is_digit(peek()); ++at_) digits = digits * 10.0L + (peek() - '0');
    }
    if (take('.')) {
      value.is_integer = false;
      if (!is_digit(peek())) return fail("a point without digits");
      for (; is_digit(peek()); ++at_) {
        if (digits > 1e30L) continue;  // beyond the precision of a double
        digits = digits * 10.0L + (peek() - '0');
        --shift;
      }
    }
    if (peek() == 'e' || peek() == 'E') {
      value.is_integer = false;
      ++at_;
      const bool down = peek() == '-';
      if (peek() == '-' || peek() == '+') ++at_;
      if (!is_digit(peek())) return fail("an exponent without digits");
      int exponent = 0;
      for (; is_digit(peek()); ++at_) exponent = std::min(exponent * 10 + (peek() - '0'), 100000);
      shift += down ? -exponent : exponent;
    }
    if (digits != 0.0L && shift != 0) digits *= std::pow(10.0L, static_cast<long double>(shift));
    if (negative) digits = -digits;
    value.number = static_cast<double>(digits);
    if (!std::isfinite(value.number)) return fail("a number that is too large");
    const bool small = std::fabs(digits) <= static_cast<long double>(kMaxInteger);
    value.is_integer = value.is_integer && small;
    if (value.is_integer) value.integer = static_cast<std::int64_t>(digits);
    return true;
  }

  std::string_view text_;
  std::size_t at_ = 0;
  std::string& problem_;
};

}  // namespace

bool Json::parse(std::string_view text, Json& value, std::string& problem, std::size_t max_bytes) {
  value = Json();
  problem.clear();
  if (text.size() > max_bytes) {
    problem = std::to_string(text.size()) + " bytes; at most " + std::to_string(max_bytes);
    return false;
  }
  return Reader(text, problem).document(value);
}

const Json* Json::find(std::string_view name) const {
  const auto found = std::find(names.begin(), names.end(), name);
  return found == names.end() ? nullptr
                              : &items[static_cast<std::size_t>(found - names.begin())];
}

std::string quoted(std::string_view text) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string result = "\"";
  while (!text.empty()) {
    const unsigned char c = static_cast<unsigned char>(text[0]);
    const std::size_t length = utf8_length(text);
    if (c == '"' || c == '\\') {
      result += {'\\', text[0]};
    } else if (c < 0x20 || c == 0x7F) {
      result += "\\u00";
      result += {kHex[c >> 4], kHex[c & 15]};
    } else if (length == 0) {
      result += "\xEF\xBF\xBD";
    } else {
      result.append(text, 0, length);
    }
    text.remove_prefix(std::max<std::size_t>(length, 1));
  }
  return result + "\"";
}

std::size_t utf8_length(std::string_view text) {
  if (text.empty()) return 0;
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xC2 && first < 0xE0   ? 2
                             : first >= 0xE0 && first < 0xF0 ? 3
                             : first >= 0xF0 && first < 0xF5 ? 4
                                                             : 0;
  if (length == 0 || text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  // Overlong encodings, surrogates, and beyond U+10FFFF.
  if ((first == 0xE0 && byte(1) < 0xA0) || (first == 0xED && byte(1) > 0x9F) ||
      (first == 0xF0 && byte(1) < 0x90) || (first == 0xF4 && byte(1) > 0x8F)) {
    return 0;
  }
  return length;
}

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

std::size_t code_points(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

}  // namespace stemwire
