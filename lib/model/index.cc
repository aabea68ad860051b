#include "lib/model/index.h"

#include <nlohmann/json.hpp>

#include "lib/json/parse.h"

namespace mimo {

namespace {

using nlohmann::json;

constexpr JsonLimits kLimits = {.bytes = size_t{1} << 30, .values = size_t{64} << 20};

// weight_map is read as a stream: 160 000 entries need no DOM.
class IndexReader : public JsonEvents {
 public:
  ParsedIndex out;
  std::string problem;

  bool Null() override { return Keep(nullptr) && Value("null"); }
  bool Bool(bool v) override { return Keep(v) && Value("a boolean"); }
  bool Integer(int64_t v) override { return Keep(v) && Number(v >= 0, static_cast<uint64_t>(v)); }
  bool Unsigned(uint64_t v) override { return Keep(v) && Number(true, v); }
  bool Real(double v, const std::string& /*text*/) override {
    // Some writers store total_size as 3.15e11.
    const bool whole = v >= 0 && v < 9e18 && v == static_cast<double>(static_cast<uint64_t>(v));
    return Keep(v) && Number(whole, whole ? static_cast<uint64_t>(v) : 0);
  }
  bool String(std::string& v) override {
    Keep(v);
    if (path_.size() == 2 && path_[0] == "weight_map")
      out.weight_map.emplace_back(std::move(path_[1]), std::move(v));
    else if (Metadata("save_format"))
      out.info.save_format = std::move(v);
    else if (Metadata("total_size") || Metadata("tp_size"))
      return NumberText(v);
    return true;
  }
  bool BeginObject() override {
    path_.emplace_back();
    return true;
  }
  bool Key(std::string& v) override {
    path_.back() = std::move(v);
    return true;
  }
  bool EndObject() override {
    path_.pop_back();
    return true;
  }
  bool BeginArray() override {
    if (path_.empty()) return Value("an array");
    path_.emplace_back("[]");
    return true;
  }
  bool EndArray() override {
    path_.pop_back();
    return true;
  }

 private:
  std::vector<std::string> path_;

  template <class Scalar>
  bool Keep(const Scalar& value) {
    if (path_.size() == 2 && path_[0] == "metadata") out.info.metadata.emplace_back(path_[1], json(value).dump());
    return true;
  }
  bool Metadata(const char* name) const { return path_.size() == 2 && path_[0] == "metadata" && path_[1] == name; }
  bool Value(const char* what) {
    if (path_.empty()) problem = std::string("the document is ") + what + ", not an object";
    if (path_.size() == 1 && path_[0] == "weight_map")
      problem = std::string("weight_map is ") + what + ", not an object";
    if (path_.size() == 2 && path_[0] == "weight_map")
      problem = "weight_map entry \"" + path_[1] + "\" is " + what + ", not a file name";
    return problem.empty();
  }
  bool Number(bool valid, uint64_t v) {
    if (!Value("a number")) return false;
    if (!valid) return true;
    if (Metadata("total_size")) out.info.total_size = v;
    if (Metadata("tp_size")) out.info.tp_size = static_cast<int64_t>(v);
    return true;
  }
  bool NumberText(const std::string& text) {
    const bool digits = !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
    return !digits || text.size() >= 19 || Number(true, std::stoull(text));
  }
};

}  // namespace

Result<ParsedIndex> ParseIndex(std::string text, const std::string& path) {
  IndexReader reader;
  const Result<bool> read = ParseJsonEvents(text, path, kLimits, reader);
  if (!read.ok() || !reader.problem.empty())
    return BadInput("the index is not valid")
        .File(path)
        .Expected(read.ok() ? "a JSON object with weight_map {tensor: file}" : read.error().expected)
        .Found(read.ok() ? reader.problem : read.error().found)
        .Id("index.malformed")
        .Advice("repair the index, or move it out of the directory: the headers of the tensor files are enough");
  for (const auto& [tensor, file] : reader.out.weight_map) {
    if (!file.empty() && file.find('/') == std::string::npos && file != "." && file != "..") continue;
    return BadInput("the index names a file outside the checkpoint")
        .File(path)
        .Tensor(tensor)
        .Expected("a file name in the same directory")
        .Found("\"" + file + "\"")
        .Id("index.malformed")
        .Advice("repair the index, or move it out of the directory: the headers of the tensor files are enough");
  }
  reader.out.info.present = true;
  reader.out.info.text = std::move(text);
  return std::move(reader.out);
}

}  // namespace mimo
