#include "lib/io/safetensors/header_json.h"

#include <algorithm>
#include <limits>
#include <optional>

#include "lib/json/parse.h"

namespace mimo {
namespace {

constexpr char kAdvice[] = "compare the file's length and hash with those of where it came from";

constexpr std::string_view kMetadataKey = "__metadata__";

std::string KnownDTypes() {
  std::string out = "one of";
  for (size_t i = 0; i <= static_cast<size_t>(DType::kU64); ++i) {
    out += ' ';
    out += DTypeName(static_cast<DType>(i));
  }
  return out;
}

// Receives what the JSON consists of. The grammar has three levels and nothing else is accepted, so depth is
// bounded by the states; returning false stops the parser, and error_ then says why.
class Handler final : public JsonEvents {
 public:
  explicit Handler(const std::string& path) : path_(path) {}

  SafetensorsEntries TakeEntries() { return std::move(entries_); }
  Error TakeError() { return std::move(error_); }

  bool Null() override { return Unexpected("null"); }
  bool Bool(bool value) override { return Unexpected(value ? "true" : "false"); }
  bool Integer(int64_t value) override { return Unexpected(std::to_string(value)); }
  bool Real(double /*value*/, const std::string& text) override { return Unexpected(Cut(text)); }

  bool Unsigned(uint64_t value) override {
    const bool is_number = state_ == State::kShape || state_ == State::kOffsets;
    if (!is_number || value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
      return Unexpected(std::to_string(value));
    if (state_ == State::kShape) {
      tensor_.shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (offsets_ == 2) return Fail(BadInput("data_offsets has more than two numbers").Expected("[begin, end]"));
    (offsets_ == 0 ? tensor_.begin : tensor_.end) = value;
    ++offsets_;
    return true;
  }

  bool String(std::string& value) override {
    if (state_ == State::kMetadata) {
      entries_.metadata.back().second = std::move(value);
      return true;
    }
    if (state_ != State::kTensor || field_ != Field::kDType) return Unexpected("the string " + Excerpt(value));
    const auto dtype = DTypeFromName(value);
    if (!dtype)
      return Fail(BadInput("unknown dtype").Expected(KnownDTypes()).Found(Excerpt(value)).Id("files.unknown_dtype"));
    tensor_.dtype = *dtype;
    return true;
  }

  bool BeginObject() override {
    if (state_ != State::kStart && state_ != State::kRoot) return Unexpected("an object");
    state_ = state_ == State::kStart ? State::kRoot : in_metadata_ ? State::kMetadata : State::kTensor;
    seen_ = 0;
    return true;
  }

  bool Key(std::string& value) override {
    switch (state_) {
      case State::kRoot:
        in_metadata_ = value == kMetadataKey;
        if (in_metadata_) {
          if (metadata_seen_) return Fail(BadInput("__metadata__ appears twice"));
          metadata_seen_ = true;
        } else {
          tensor_ = {};
          tensor_.name = std::move(value);
        }
        return true;
      case State::kMetadata:
        entries_.metadata.emplace_back(std::move(value), std::string());
        return true;
      case State::kTensor:
      case State::kStart:  // no keys here: the parser gives none
      case State::kShape:
      case State::kOffsets:
      case State::kEnd:
        break;
    }
    return TensorField(value);
  }

  bool EndObject() override {
    if (state_ == State::kTensor) {
      if (seen_ != kAllFields)
        return Fail(BadInput("a field is missing").Expected("dtype, shape and data_offsets").Found(FoundFields()));
      entries_.tensors.push_back(std::move(tensor_));
    }
    in_metadata_ = false;
    state_ = state_ == State::kRoot ? State::kEnd : State::kRoot;
    return true;
  }

  bool BeginArray() override {
    if (state_ != State::kTensor || field_ == Field::kDType) return Unexpected("an array");
    state_ = field_ == Field::kShape ? State::kShape : State::kOffsets;
    offsets_ = 0;
    return true;
  }

  bool EndArray() override {
    if (state_ == State::kOffsets) {
      if (offsets_ != 2) {
        return Fail(BadInput("data_offsets has too few numbers").Expected("[begin, end]").Found(offsets_));
      }
      if (tensor_.begin > tensor_.end) {
        return Fail(BadInput("data_offsets are reversed")
                        .Expected("begin <= end")
                        .Found('[' + std::to_string(tensor_.begin) + ", " + std::to_string(tensor_.end) + ']'));
      }
    }
    state_ = State::kTensor;
    return true;
  }

 private:
  enum class State : uint8_t { kStart, kRoot, kMetadata, kTensor, kShape, kOffsets, kEnd };
  enum class Field : uint8_t { kDType, kShape, kOffsets };
  static constexpr unsigned kAllFields = 7;
  static constexpr std::string_view kFieldNames[] = {"dtype", "shape", "data_offsets"};

  bool TensorField(std::string_view name) {
    for (unsigned i = 0; i < 3; ++i) {
      if (name != kFieldNames[i]) continue;
      if ((seen_ >> i & 1) != 0) return Fail(BadInput("field " + std::string(name) + " appears twice"));
      seen_ |= 1U << i;
      field_ = static_cast<Field>(i);
      return true;
    }
    return Fail(BadInput("unknown field").Expected("dtype, shape and data_offsets").Found(Excerpt(name)));
  }

  std::string FoundFields() const {
    std::string out;
    for (unsigned i = 0; i < 3; ++i) {
      if ((seen_ >> i & 1) != 0) out += (out.empty() ? "" : " and ") + std::string(kFieldNames[i]);
    }
    return out.empty() ? "none" : "only " + out;
  }

  // A value of the wrong kind for the place it stands in.
  bool Unexpected(const std::string& found) {
    switch (state_) {
      case State::kStart:
        return Fail(BadInput("header is not a JSON object").Expected("an object").Found(found));
      case State::kMetadata:
        return Fail(BadInput("__metadata__ value of " + Excerpt(entries_.metadata.back().first) + " is not a string")
                        .Expected("a string")
                        .Found(found));
      case State::kTensor:
        return Fail(BadInput(std::string(kFieldNames[static_cast<size_t>(field_)]) + " has the wrong type")
                        .Expected(field_ == Field::kDType ? "a string" : "an array")
                        .Found(found));
      case State::kShape:
      case State::kOffsets:
        return Fail(BadInput(std::string(kFieldNames[static_cast<size_t>(field_)]) + " has a bad number")
                        .Expected("whole numbers from 0 to 2^63 - 1")
                        .Found(found));
      case State::kRoot:
      case State::kEnd:
        break;
    }
    return Fail(BadInput(in_metadata_ ? "__metadata__ is not an object" : "entry is not an object")
                    .Expected("an object")
                    .Found(found));
  }

  bool Fail(Error error) {
    const bool in_tensor = state_ != State::kStart && state_ != State::kMetadata && !in_metadata_;
    error_ = std::move(error).File(path_).Tensor(in_tensor ? tensor_.name : std::string()).Advice(kAdvice);
    return false;
  }

  static std::string Cut(std::string text) {
    if (text.size() > 40) text = text.substr(0, 40) + "...";
    return text;
  }

  const std::string& path_;
  SafetensorsEntries entries_;
  Error error_;
  State state_ = State::kStart;
  bool in_metadata_ = false;  // the value that comes or is being read is that of __metadata__
  bool metadata_seen_ = false;
  TensorInfo tensor_;            // being read
  Field field_ = Field::kDType;  // being read
  unsigned seen_ = 0;            // bit per field of tensor_
  unsigned offsets_ = 0;         // numbers of data_offsets read
};

// Two equal strings among `names`, if any. Sorts views: no hash that input could be made to defeat.
std::optional<std::string> Twice(std::vector<std::string_view> names) {
  if (!std::is_sorted(names.begin(), names.end())) std::sort(names.begin(), names.end());
  const auto it = std::adjacent_find(names.begin(), names.end());
  if (it == names.end()) return std::nullopt;
  return std::string(*it);
}

}  // namespace

std::string Excerpt(std::string_view text) {
  constexpr size_t kMost = 80;
  if (text.size() <= kMost) return '"' + std::string(text) + '"';
  size_t end = kMost;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;  // not inside a UTF-8 sequence
  return '"' + std::string(text.substr(0, end)) + "...\"";
}

Result<SafetensorsEntries> ParseSafetensorsJson(std::string_view json, const std::string& path) {
  const auto broken = [&](std::string what) { return BadInput(std::move(what)).File(path).Advice(kAdvice); };
  if (json.empty() || json.front() != '{')
    return broken("header does not start with '{'")
        .Expected("a JSON object")
        .Found(json.empty() ? "an empty header" : "byte " + std::to_string(static_cast<unsigned char>(json.front())));
  const size_t last = json.find_last_not_of(' ');
  json = json.substr(0, last + 1);
  // The parser takes other white space for nothing.
  if (json.back() != '}' || json.find('\0') != std::string_view::npos)
    return broken("header does not end with '}' and spaces")
        .Expected("'}', then nothing but spaces")
        .Found(json.back() != '}' ? "byte " + std::to_string(static_cast<unsigned char>(json.back())) : "a NUL byte");
  Handler handler(path);
  const JsonLimits limits = {.bytes = json.size(),
                             .string_bytes = json.size(),
                             .key_bytes = kMaxNameBytes,
                             .values = json.size(),
                             .strict = false};
  Result<bool> read = ParseJsonEvents(json, path, limits, handler);
  if (!read.ok() && read.error().what == kNotJson)
    return broken("header is not valid JSON in UTF-8").Found(read.error().found);
  if (!read.ok()) return read.TakeError().Advice(kAdvice);
  if (!read.value()) return handler.TakeError();
  SafetensorsEntries entries = handler.TakeEntries();

  std::vector<std::string_view> names;
  names.reserve(entries.tensors.size());
  for (const TensorInfo& tensor : entries.tensors) names.push_back(tensor.name);
  if (const auto name = Twice(std::move(names))) return broken("tensor appears twice").Tensor(*name);
  names = {};
  for (const auto& [key, value] : entries.metadata) names.push_back(key);
  if (const auto key = Twice(std::move(names))) return broken("__metadata__ key " + Excerpt(*key) + " appears twice");
  return entries;
}

}  // namespace mimo
