// The part of the VST 3 binary interface that this plugin uses, declared from its published
// description: order of functions, layout of structures, numbers. The names are ours.
//
// An object is a pointer to a table of functions, the first three of which are `query`, `retain`
// and `release`: what a C++ class without data and virtual destructor compiles to. No function may
// throw.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace stemwire::vst3 {

using Id = unsigned char[16];
using Char16 = char16_t;
using Text = Char16[128];
using Bool = std::uint8_t;
using ParameterId = std::uint32_t;
using Arrangement = std::uint64_t;  // a bit for each speaker

using Result = std::int32_t;
constexpr Result kNoInterface = -1, kOk = 0, kFalse = 1, kInvalidArgument = 2, kNotImplemented = 3,
                 kInternalError = 4, kNotInitialized = 5, kOutOfMemory = 6;

inline bool same(const Id a, const Id b) { return std::memcmp(a, b, sizeof(Id)) == 0; }

// Written as four numbers, most significant byte first. (Windows uses another order.)
struct Iid {
  constexpr Iid(std::uint32_t a, std::uint32_t b, std::uint32_t c, std::uint32_t d) {
    const std::uint32_t words[] = {a, b, c, d};
    for (int i = 0; i < 16; ++i) {
      bytes[i] = static_cast<unsigned char>(words[i / 4] >> (24 - 8 * (i % 4)));
    }
  }
  Id bytes = {};
};

struct Unknown {
  static constexpr Iid iid{0x00000000, 0x00000000, 0xC0000000, 0x00000046};
  virtual Result query(const Id iid, void** object) = 0;
  virtual std::uint32_t retain() = 0;
  virtual std::uint32_t release() = 0;
};

// --- exports of a module

struct FactoryInfo {
  static constexpr std::int32_t kUnicode = 1 << 4;
  char vendor[64], url[256], email[128];
  std::int32_t flags;
};

constexpr std::int32_t kManyInstances = 0x7FFFFFFF;

struct ClassInfo {
  Id class_id;
  std::int32_t cardinality;
  char category[32], name[64];
};

struct ClassInfo2 {
  Id class_id;
  std::int32_t cardinality;
  char category[32], name[64];
  std::uint32_t flags;
  char sub_categories[128], vendor[64], version[64], sdk_version[64];
};

struct ClassInfo3 {
  Id class_id;
  std::int32_t cardinality;
  char category[32];
  Char16 name[64];
  std::uint32_t flags;
  char sub_categories[128];
  Char16 vendor[64], version[64], sdk_version[64];
};

struct Factory : Unknown {
  static constexpr Iid iid{0x7A4D811C, 0x52114A1F, 0xAED9D2EE, 0x0B43BF9F};
  virtual Result info(FactoryInfo* info) = 0;
  virtual std::int32_t classes() = 0;
  virtual Result class_info(std::int32_t index, ClassInfo* info) = 0;
  virtual Result create(const char* class_id, const char* iid, void** object) = 0;
};

struct Factory2 : Factory {
  static constexpr Iid iid{0x0007B650, 0xF24B4C0B, 0xA464EDB9, 0xF00B2ABB};
  virtual Result class_info2(std::int32_t index, ClassInfo2* info) = 0;
};

struct Factory3 : Factory2 {
  static constexpr Iid iid{0x4555A2AB, 0xC1234E57, 0x9B122910, 0x36878931};
  virtual Result class_info3(std::int32_t index, ClassInfo3* info) = 0;
  virtual Result set_host(Unknown* host) = 0;
};

// --- a plugin's processing half

struct Stream : Unknown {
  static constexpr Iid iid{0xC3BF6EA2, 0x30994752, 0x9B6BF990, 0x1EE33E9B};
  enum Seek : std::int32_t { kFromBegin, kFromHere, kFromEnd };
  virtual Result read(void* to, std::int32_t bytes, std::int32_t* done) = 0;
  virtual Result write(void* from, std::int32_t bytes, std::int32_t* done) = 0;
  virtual Result seek(std::int64_t position, std::int32_t from, std::int64_t* result) = 0;
  virtual Result tell(std::int64_t* position) = 0;
};

struct PluginBase : Unknown {
  static constexpr Iid iid{0x22888DDB, 0x156E45AE, 0x8358B348, 0x08190625};
  virtual Result initialize(Unknown* host) = 0;
  virtual Result terminate() = 0;
};

enum Media : std::int32_t { kAudio, kEvent };
enum Direction : std::int32_t { kInput, kOutput };
enum BusType : std::int32_t { kMain, kAux };

struct BusInfo {
  static constexpr std::uint32_t kDefaultActive = 1;
  std::int32_t media, direction, channels;
  Text name;
  std::int32_t type;
  std::uint32_t flags;
};

struct RoutingInfo {
  std::int32_t media, bus, channel;
};

struct Component : PluginBase {
  static constexpr Iid iid{0xE831FF31, 0xF2D54301, 0x928EBBEE, 0x25697802};
  virtual Result controller_class(Id class_id) = 0;
  virtual Result set_io_mode(std::int32_t mode) = 0;
  virtual std::int32_t bus_count(std::int32_t media, std::int32_t direction) = 0;
  virtual Result bus_info(std::int32_t media, std::int32_t direction, std::int32_t index,
                          BusInfo* info) = 0;
  virtual Result routing(RoutingInfo* input, RoutingInfo* output) = 0;
  virtual Result activate_bus(std::int32_t media, std::int32_t direction, std::int32_t index,
                              Bool state) = 0;
  virtual Result set_active(Bool state) = 0;
  virtual Result set_state(Stream* state) = 0;
  virtual Result get_state(Stream* state) = 0;
};

struct ParameterQueue : Unknown {  // points of one parameter within a block, ordered by time
  static constexpr Iid iid{0x01263A18, 0xED074F6F, 0x98C9D356, 0x4686F9BA};
  virtual ParameterId id() = 0;
  virtual std::int32_t points() = 0;
  virtual Result point(std::int32_t index, std::int32_t* offset, double* value) = 0;
  virtual Result add(std::int32_t offset, double value, std::int32_t* index) = 0;
};

struct ParameterChanges : Unknown {
  static constexpr Iid iid{0xA4779663, 0x0BB64A56, 0xB44384A8, 0x466FEB9D};
  virtual std::int32_t count() = 0;
  virtual ParameterQueue* queue(std::int32_t index) = 0;
  virtual ParameterQueue* add(const ParameterId& id, std::int32_t* index) = 0;
};

enum ProcessMode : std::int32_t { kRealtime, kPrefetch, kOffline };
enum SampleSize : std::int32_t { kFloat32, kFloat64 };
constexpr Arrangement kLeft = 1, kStereo = 3, kMono = 1 << 19;

struct ProcessSetup {
  std::int32_t mode, sample_size, max_samples;
  double rate;
};

struct Buffers {  // of a bus
  std::int32_t channels;
  std::uint64_t silence;  // a bit for each channel that is silent
  union {
    float** samples32;
    double** samples64;
  };
};

struct ProcessData {
  std::int32_t mode, sample_size, samples, input_buses, output_buses;
  Buffers *inputs, *outputs;
  ParameterChanges *input_changes, *output_changes;
  Unknown *input_events, *output_events;
  void* context;
};

struct Processor : Unknown {
  static constexpr Iid iid{0x42043F99, 0xB7DA453C, 0xA569E79D, 0x9AAEC33D};
  virtual Result set_arrangements(Arrangement* inputs, std::int32_t input_count,
                                  Arrangement* outputs, std::int32_t output_count) = 0;
  virtual Result arrangement(std::int32_t direction, std::int32_t index, Arrangement* result) = 0;
  virtual Result can_process(std::int32_t sample_size) = 0;
  virtual std::uint32_t latency() = 0;
  virtual Result setup(ProcessSetup* setup) = 0;
  virtual Result set_processing(Bool state) = 0;
  virtual Result process(ProcessData* data) = 0;
  virtual std::uint32_t tail() = 0;
};

struct ContextRequirements : Unknown {
  static constexpr Iid iid{0x2A654303, 0xEF764E3D, 0x95B5FE83, 0x730EF6D0};
  virtual std::uint32_t context_requirements() = 0;
};

// --- a plugin's editing half: parameters

struct ParameterInfo {
  enum Flags : std::int32_t {
    kCanAutomate = 1 << 0, kReadOnly = 1 << 1, kList = 1 << 3, kBypass = 1 << 16
  };
  ParameterId id;
  Text title, short_title, units;
  std::int32_t steps;  // 0: continuous
  double normal_default;
  std::int32_t unit, flags;
};

struct Handler : Unknown {  // the host's
  static constexpr Iid iid{0x93A0BEA3, 0x0BD045DB, 0x8E890B0C, 0xC1E46AC6};
  enum Restart : std::int32_t { kValuesChanged = 1 << 2, kLatencyChanged = 1 << 3 };
  virtual Result begin_edit(ParameterId id) = 0;
  virtual Result perform_edit(ParameterId id, double value) = 0;
  virtual Result end_edit(ParameterId id) = 0;
  virtual Result restart(std::int32_t flags) = 0;
};

struct Controller : PluginBase {
  static constexpr Iid iid{0xDCD7BBE3, 0x7742448D, 0xA874AACC, 0x979C759E};
  virtual Result set_component_state(Stream* state) = 0;
  virtual Result set_state(Stream* state) = 0;
  virtual Result get_state(Stream* state) = 0;
  virtual std::int32_t parameter_count() = 0;
  virtual Result parameter_info(std::int32_t index, ParameterInfo* info) = 0;
  virtual Result text_of(ParameterId id, double value, Text text) = 0;
  virtual Result value_of(ParameterId id, Char16* text, double* value) = 0;
  virtual double to_plain(ParameterId id, double value) = 0;
  virtual double to_normal(ParameterId id, double plain) = 0;
  virtual double parameter(ParameterId id) = 0;
  virtual Result set_parameter(ParameterId id, double value) = 0;
  virtual Result set_handler(Handler* handler) = 0;
  virtual Unknown* create_view(const char* name) = 0;
};

static_assert(sizeof(void*) == 8, "layouts below are those of 64-bit machines");
static_assert(sizeof(FactoryInfo) == 452 && sizeof(ClassInfo) == 116);
static_assert(sizeof(ClassInfo2) == 440 && offsetof(ClassInfo2, flags) == 116);
static_assert(sizeof(ClassInfo3) == 696 && offsetof(ClassInfo3, vendor) == 312);
static_assert(sizeof(BusInfo) == 276 && offsetof(BusInfo, type) == 268);
static_assert(sizeof(ProcessSetup) == 24 && offsetof(ProcessSetup, rate) == 16);
static_assert(sizeof(Buffers) == 24 && offsetof(Buffers, samples32) == 16);
static_assert(sizeof(ProcessData) == 80 && offsetof(ProcessData, inputs) == 24);
static_assert(sizeof(ParameterInfo) == 792 && offsetof(ParameterInfo, normal_default) == 776);

}  // namespace stemwire::vst3
