// Parameter values, their meaning and their text.
#include "vst3/parameters.h"

#include <clocale>
#include <cmath>
#include <limits>
#include <string>

#include "check.h"

using namespace stemwire;

namespace {

void gains() {
  CHECK_EQ(gain_of(-60.0), 0.0f);
  CHECK_EQ(gain_of(0.0), 1.0f);
  CHECK_NEAR(gain_of(6.0), 1.9952623, 1e-6);
  CHECK_NEAR(gain_of(-59.9), 1.0116e-3, 1e-6);
}

void faders() {
  CHECK_EQ(db_of(0.0), -60.0);
  CHECK_EQ(db_of(0.6), 0.0);
  CHECK_EQ(db_of(1.0), 12.0);
  CHECK_EQ(fader_of(-100.0), 0.0);
  CHECK_EQ(fader_of(std::numeric_limits<double>::quiet_NaN()), 0.0);
  CHECK_EQ(fader_of(100.0), 1.0);
  // Hosts may keep values in float32; every tenth of a dB must survive, and 0 dB above all.
  for (int tenth = -600; tenth <= 120; ++tenth) {
    const double db = tenth / 10.0;
    CHECK_EQ(db_of(static_cast<float>(fader_of(db))), db);
  }
  CHECK(!std::signbit(db_of(0.6)));
  double before = -61.0;
  for (int step = 0; step <= 1000; ++step) {
    CHECK(db_of(step / 1000.0) > before);
    before = db_of(step / 1000.0);
  }
}

void lists() {
  for (const vst3::ParameterId id : {kBypass, kPreset, kDelay, kServer, kAutostart, kStatus}) {
    for (int index = 0; index <= Parameters::steps(id); ++index) {
      const auto kept = static_cast<float>(Parameters::to_normal(id, index));
      CHECK_EQ(Parameters::to_plain(id, kept), index);
    }
  }
  CHECK_EQ(Parameters::to_normal(kDelay, -3), 0.0);
  CHECK_EQ(Parameters::to_normal(kDelay, 99), 1.0);
  for (const double count : {0.0, 1.0, 4711.0, 999999.0, 1e6}) {
    const auto kept = static_cast<float>(Parameters::to_normal(kDryBlocks, count));
    CHECK_EQ(Parameters::to_plain(kDryBlocks, kept), count);
  }
  CHECK_EQ(Parameters::to_normal(kDryBlocks, 5e6), 1.0);
}

void numbers() {
  double number = 0.0;
  CHECK(number_of("-6.5 dB", &number));
  CHECK_EQ(number, -6.5);
  CHECK(number_of("  +3", &number));
  CHECK_EQ(number, 3.0);
  CHECK(number_of("0,25", &number));
  CHECK_EQ(number, 0.25);
  for (const char* none : {"", " ", "-", ".", "dB", "x3", "nan", "inf"}) {
    CHECK(!number_of(none, &number));
  }
  CHECK(!number_of(std::string(400, '9'), &number));
}

void texts() {
  Parameters parameters;
  parameters.set_server_names({"studio", "Büro"});
  double normal = 0.0;
  for (vst3::ParameterId id = 0; id < kParameters; ++id) {
    const int steps = Parameters::steps(id) == 0 || id >= kDryBlocks ? 100 : Parameters::steps(id);
    for (int step = 0; step <= steps; ++step) {
      const std::string text = parameters.text(id, static_cast<double>(step) / steps);
      CHECK(!text.empty());
      if (text == "-") continue;
      CHECK(parameters.value(id, text, &normal));
      CHECK_EQ(parameters.text(id, normal), text);
    }
  }
  CHECK_EQ(parameters.text(kVocals, 0.0), "-60.0");
  CHECK_EQ(parameters.text(kVocals, 0.6), "0.0");
  CHECK_EQ(parameters.text(kVocals, fader_of(-0.04)), "0.0");
  CHECK_EQ(parameters.text(kServer, 2.0 / 15), "Büro");
  CHECK_EQ(parameters.text(kServer, 1.0), "-");
  CHECK(!parameters.value(kServer, "-", &normal));
  CHECK(!parameters.value(kDelay, "61", &normal));
  CHECK(parameters.value(kDelay, "80.0", &normal));
  CHECK_EQ(Parameters::to_plain(kDelay, normal), 3);
  CHECK(parameters.value(kVocals, "off", &normal));
  CHECK_EQ(normal, 0.0);
  CHECK(parameters.value(kPreset, "LOW", &normal));
  CHECK_EQ(normal, 1.0);
}

void values() {
  Parameters parameters;
  CHECK_EQ(parameters.gains().vocals, 0.0f);
  CHECK_EQ(parameters.gains().instrumental, 1.0f);
  CHECK_EQ(parameters.gains().bypass, 0.0f);
  CHECK_EQ(kDelaysMs[parameters.choice(kDelay)], 60);
  parameters.set(kVocals, std::numeric_limits<double>::quiet_NaN());
  CHECK_EQ(parameters.normal(kVocals), 0.0);
  parameters.set(kVocals, 7.0);
  CHECK_EQ(parameters.normal(kVocals), 1.0);
  for (vst3::ParameterId id = 0; id < kParameters; ++id) {
    vst3::ParameterInfo info{};
    Parameters::describe(id, &info);
    CHECK_EQ(info.id, id);
    CHECK_EQ((info.flags & vst3::ParameterInfo::kReadOnly) != 0, read_only(id));
    CHECK_EQ(info.normal_default, Parameters::default_of(id));
  }
}

void wide_texts() {
  for (const std::string text : {"", "dB", "Büro", "€", "\xF0\x9F\x8E\xA4 mic"}) {
    vst3::Char16 wide[128];
    to_utf16(text, wide, 128);
    CHECK_EQ(to_utf8(wide, 128), text);
    to_utf16(text, wide, 3);  // characters that do not fit are left out
    CHECK(std::char_traits<vst3::Char16>::length(wide) <= 2);
  }
  vst3::Char16 wide[8];
  to_utf16("\xF0\x9F", wide, 8);  // truncated
  to_utf16("\xFF\xFE\x80", wide, 8);
  CHECK(std::char_traits<vst3::Char16>::length(wide) <= 3);
  const vst3::Char16 open[] = {0xD83C, 0xD83C};  // unpaired surrogates, not terminated
  CHECK_EQ(to_utf8(open, 2).size(), 6u);
}

}  // namespace

int main() {
  // Nothing may depend on the locale; if it is not installed, the tests run without it.
  std::setlocale(LC_ALL, "de_DE.UTF-8");
  gains();
  faders();
  lists();
  numbers();
  texts();
  values();
  wide_texts();
  return check::result();
}
