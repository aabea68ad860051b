#include "lib/model/index.h"

#include <nlohmann/json.hpp>

namespace mimo {

namespace {

using nlohmann::json;

// weight_map is read as a stream: 160 000 entries need no DOM.
class IndexReader : public nlohmann::json_sax<json> {
 public:
  ParsedIndex out;
  std::string problem;

  bool null() override { return Keep(nullptr) && Value("null"); }
  bool boolean(bool v) override { return Keep(v) && Value("a boolean"); }
  bool number_integer(number_integer_t v) override { return Keep(v) && Number(v >= 0, static_cast<uint64_t>(v)); }
  bool number_unsigned(number_unsigned_t v) override { return Keep(v) && Number(true, v); }
  bool number_float(number_float_t v, const string_t&) override {
    // Some writers store total_size as 3.15e11.
    return Keep(v) &&
           Number(v >= 0 && v < 9e18 && v == static_cast<double>(static_cast<uint64_t>(v)), static_cast<uint64_t>(v));
  }
  bool binary(binary_t&) override { return false; }
  bool string(string_t& v) override {
    Keep(v);
    if (path_.size() == 2 && path_[0] == "weight_map")
      out.weight_map.emplace_back(path_[1], std::move(v));
    else if (Metadata("save_format"))
      out.info.save_format = std::move(v);
    else if (Metadata("total_size") || Metadata("tp_size"))
      return NumberText(v);
    return true;
  }
  bool start_object(std::size_t) override {
    path_.emplace_back();
    return true;
  }
  bool key(string_t& v) override {
    path_.back() = std::move(v);
    return true;
  }
  bool end_object() override {
    path_.pop_back();
    return true;
  }
  bool start_array(std::size_t) override {
    if (path_.empty()) return Value("an array");
    path_.emplace_back("[]");
    return true;
  }
  bool end_array() override {
    path_.pop_back();
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& e) override {
    problem = "byte " + std::to_string(position) + ": " + e.what();
    return false;
  }

 private:
  std::vector<std::string> path_;

  bool Keep(const json& value) {
    if (path_.size() == 2 && path_[0] == "metadata") out.info.metadata.emplace_back(path_[1], value.dump());
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
  const bool ok = json::sax_parse(text, &reader);
  if (!ok || !reader.problem.empty())
    return BadInput("the index is not valid")
        .File(path)
        .Expected("a JSON object with weight_map {tensor: file}")
        .Found(reader.problem)
        .Advice("repair or delete the index: the shard headers are enough");
  for (const auto& [tensor, file] : reader.out.weight_map) {
    if (!file.empty() && file.find('/') == std::string::npos && file != "." && file != "..") continue;
    return BadInput("the index names a file outside the checkpoint")
        .File(path)
        .Tensor(tensor)
        .Expected("a file name in the same directory")
        .Found("\"" + file + "\"")
        .Advice("repair or delete the index");
  }
  reader.out.info.present = true;
  reader.out.info.text = std::move(text);
  return std::move(reader.out);
}

}  // namespace mimo
