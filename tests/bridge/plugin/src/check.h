// A test is a program: it reports where a check failed and continues with the next.
//
//   int main() {
//     CHECK(1 + 1 == 2);
//     CHECK_EQ(word, "hello");
//     return check::result();
//   }
#pragma once

#include <cmath>
#include <cstdio>
#include <sstream>
#include <string>
#include <type_traits>

namespace check {

inline int checks = 0, failures = 0;

inline bool that(bool holds, const char* file, int line, const std::string& what) {
  ++checks;
  if (!holds) {
    ++failures;
    std::fprintf(stderr, "%s:%d: failed: %s\n", file, line, what.c_str());
  }
  return holds;
}

template <typename T>
decltype(auto) shown(const T& value) {
  if constexpr (std::is_enum_v<T>) return static_cast<int>(value);
  else return (value);
}

template <typename A, typename B>
bool equal(const A& a, const B& b, const char* file, int line, const char* what) {
  std::ostringstream text;
  const bool holds = a == b;
  if (!holds) text << what << ": " << shown(a) << " is not " << shown(b);
  return that(holds, file, line, text.str());
}

inline bool near(double a, double b, double most, const char* file, int line, const char* what) {
  const bool holds = std::abs(a - b) <= most;  // false for NaN
  std::ostringstream text;
  if (!holds) text << what << ": " << a << " is not within " << most << " of " << b;
  return that(holds, file, line, text.str());
}

// The result of main. A program without checks has failed.
inline int result() {
  std::fprintf(stderr, "%d checks, %d failed\n", checks, failures);
  return failures == 0 && checks > 0 ? 0 : 1;
}

}  // namespace check

// True if it holds, so that dependent checks can be skipped.
#define CHECK(condition) check::that(static_cast<bool>(condition), __FILE__, __LINE__, #condition)
#define CHECK_EQ(a, b) check::equal((a), (b), __FILE__, __LINE__, #a " == " #b)
#define CHECK_NEAR(a, b, most) check::near((a), (b), (most), __FILE__, __LINE__, #a " ~ " #b)
