// The module's exports: a factory that creates plugins.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <new>

#include "vst3/abi.h"
#include "vst3/parameters.h"
#include "vst3/plugin.h"

// The C++ library's own handler would add a demangler of 50 kB, to print a name before it aborts.
namespace __gnu_cxx {
void __verbose_terminate_handler() { std::abort(); }
}  // namespace __gnu_cxx

#define STEMWIRE_EXPORT extern "C" __attribute__((visibility("default")))

namespace stemwire {
namespace {

using vst3::kInvalidArgument;
using vst3::kOk;
using vst3::Result;

constexpr const char* kName = "Stemwire";
constexpr const char* kVendor = "Stemwire";
constexpr const char* kCategory = "Audio Module Class";
constexpr const char* kSubCategories = "Fx|Tools";
constexpr const char* kInterface = "VST 3.7.4";  // version of the interface implemented

template <std::size_t size>
void copy(const char* text, char (&to)[size]) {
  std::snprintf(to, size, "%s", text);
}

// Sets the first fields, which all three kinds of information share.
template <typename Info>
bool begin(std::int32_t index, Info* info) {
  if (index != 0 || info == nullptr) return false;
  *info = {};
  std::copy_n(Plugin::class_id.bytes, sizeof(vst3::Id), info->class_id);
  info->cardinality = vst3::kManyInstances;
  copy(kCategory, info->category);
  return true;
}

class PluginFactory final : public vst3::Factory3 {
 public:
  Result query(const vst3::Id iid, void** object) override {
    if (object == nullptr) return kInvalidArgument;
    for (const vst3::Iid& known : {Unknown::iid, Factory::iid, Factory2::iid, Factory3::iid}) {
      if (vst3::same(iid, known.bytes)) {
        *object = static_cast<vst3::Factory3*>(this);
        return kOk;
      }
    }
    *object = nullptr;
    return vst3::kNoInterface;
  }

  // The factory lives as long as the module is loaded.
  std::uint32_t retain() override { return 1; }
  std::uint32_t release() override { return 1; }

  Result info(vst3::FactoryInfo* info) override {
    if (info == nullptr) return kInvalidArgument;
    *info = {};
    copy(kVendor, info->vendor);
    info->flags = vst3::FactoryInfo::kUnicode;
    return kOk;
  }

  std::int32_t classes() override { return 1; }

  Result class_info(std::int32_t index, vst3::ClassInfo* info) override {
    if (!begin(index, info)) return kInvalidArgument;
    copy(kName, info->name);
    return kOk;
  }

  Result class_info2(std::int32_t index, vst3::ClassInfo2* info) override {
    if (!begin(index, info)) return kInvalidArgument;
    copy(kName, info->name);
    copy(kSubCategories, info->sub_categories);
    copy(kVendor, info->vendor);
    copy(STEMWIRE_VERSION, info->version);
    copy(kInterface, info->sdk_version);
    return kOk;
  }

  Result class_info3(std::int32_t index, vst3::ClassInfo3* info) override {
    if (!begin(index, info)) return kInvalidArgument;
    to_utf16(kName, info->name, 64);
    copy(kSubCategories, info->sub_categories);
    to_utf16(kVendor, info->vendor, 64);
    to_utf16(STEMWIRE_VERSION, info->version, 64);
    to_utf16(kInterface, info->sdk_version, 64);
    return kOk;
  }

  Result set_host(vst3::Unknown*) override { return kOk; }

  Result create(const char* class_id, const char* iid, void** object) override {
    if (class_id == nullptr || iid == nullptr || object == nullptr) return kInvalidArgument;
    *object = nullptr;
    const auto* id = reinterpret_cast<const unsigned char*>(class_id);
    if (!vst3::same(id, Plugin::class_id.bytes)) return vst3::kNoInterface;
    try {
      auto* plugin = new Plugin;
      const Result result = plugin->query(reinterpret_cast<const unsigned char*>(iid), object);
      plugin->release();
      return result;
    } catch (...) {
      return vst3::kOutOfMemory;
    }
  }
};

}  // namespace
}  // namespace stemwire

STEMWIRE_EXPORT bool ModuleEntry(void*) { return true; }
STEMWIRE_EXPORT bool ModuleExit() { return true; }

STEMWIRE_EXPORT stemwire::vst3::Factory* GetPluginFactory() {
  static stemwire::PluginFactory factory;
  return &factory;
}
