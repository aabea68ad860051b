#include "lib/json/events.h"

#include <simdjson.h>

#include <nlohmann/json.hpp>

namespace mimo {
namespace {

namespace ondemand = simdjson::ondemand;
using nlohmann::json;

constexpr int kNumberOverflow = 406;  // of nlohmann's exceptions

// Hands on what simdjson reads. It looks at values when it is asked for them, so what it refuses may come after events.
class Walk {
 public:
  explicit Walk(JsonEvents& events) : events_(events) {}

  // Whether simdjson refused nothing. Scalars that stand alone are left to nlohmann.
  bool Document(std::string_view text) {
    const simdjson::padded_string padded(text);
    ondemand::parser parser;
    ondemand::document document;
    ondemand::value root;
    if (parser.iterate(padded).get(document) != simdjson::SUCCESS) return false;
    if (document.get_value().get(root) != simdjson::SUCCESS || !Value(root)) return false;
    return document.current_location().error() == simdjson::OUT_OF_BOUNDS;  // nothing follows
  }

  bool stopped() const { return stopped_; }
  size_t given() const { return given_; }

 private:
  // An event, and whether to go on.
  bool Gave(bool goes_on) {
    ++given_;
    stopped_ = !goes_on;
    return goes_on;
  }

  bool Value(ondemand::value value) {
    ondemand::json_type type;
    if (value.type().get(type) != simdjson::SUCCESS) return false;
    switch (type) {
      case ondemand::json_type::object:
        return Object(value);
      case ondemand::json_type::array:
        return Array(value);
      case ondemand::json_type::string: {
        std::string_view string;
        if (value.get_string().get(string) != simdjson::SUCCESS) return false;
        string_ = string;
        return Gave(events_.String(string_));
      }
      case ondemand::json_type::number:
        return Number(value);
      case ondemand::json_type::boolean: {
        bool is = false;
        return value.get_bool().get(is) == simdjson::SUCCESS && Gave(events_.Bool(is));
      }
      case ondemand::json_type::null: {
        const simdjson::simdjson_result<bool> is = value.is_null();
        return is.error() == simdjson::SUCCESS && is.value_unsafe() && Gave(events_.Null());
      }
      default:  // newer versions give what is no JSON a type
        return false;
    }
  }

  bool Object(ondemand::value& value) {
    ondemand::object object;
    if (value.get_object().get(object) != simdjson::SUCCESS || !Gave(events_.BeginObject())) return false;
    for (simdjson::simdjson_result<ondemand::field> member : object) {
      std::string_view key;
      if (member.unescaped_key().get(key) != simdjson::SUCCESS) return false;
      string_ = key;
      ondemand::value of_key;
      if (!Gave(events_.Key(string_)) || member.value().get(of_key) != simdjson::SUCCESS || !Value(of_key))
        return false;
    }
    return Gave(events_.EndObject());
  }

  bool Array(ondemand::value& value) {
    ondemand::array array;
    if (value.get_array().get(array) != simdjson::SUCCESS || !Gave(events_.BeginArray())) return false;
    for (simdjson::simdjson_result<ondemand::value> element : array) {
      ondemand::value of_array;
      if (element.get(of_array) != simdjson::SUCCESS || !Value(of_array)) return false;
    }
    return Gave(events_.EndArray());
  }

  // A number with a point or an exponent is nlohmann's: simdjson 3.0 reads many of more than 19 digits wrongly.
  bool Number(ondemand::value& value) {
    std::string_view token = value.raw_json_token();
    token = token.substr(0, token.find_last_not_of(" \t\r\n") + 1);
    if (token.find_first_of(".eE") != std::string_view::npos) {
      const json real = json::parse(token, nullptr, /*allow_exceptions=*/false);
      string_ = token;
      return real.is_number_float() && Gave(events_.Real(real.get<double>(), string_));
    }
    if (token.front() == '-') {
      int64_t integer = 0;
      return value.get_int64().get(integer) == simdjson::SUCCESS && Gave(events_.Integer(integer));
    }
    uint64_t integer = 0;
    return value.get_uint64().get(integer) == simdjson::SUCCESS && Gave(events_.Unsigned(integer));
  }

  JsonEvents& events_;
  std::string string_;  // the last string or key, which the event may move from
  size_t given_ = 0;
  bool stopped_ = false;
};

// Hands on what nlohmann reads, but for the events that were given already.
class Rest : public nlohmann::json_sax<json> {
 public:
  Rest(JsonEvents& events, size_t given) : events_(events), given_(given) {}
  JsonEnd end = {JsonEnd::Kind::kStopped};

  bool null() override { return Given() || events_.Null(); }
  bool boolean(bool value) override { return Given() || events_.Bool(value); }
  bool number_integer(int64_t value) override { return Given() || events_.Integer(value); }
  bool number_unsigned(uint64_t value) override { return Given() || events_.Unsigned(value); }
  bool number_float(double value, const std::string& text) override { return Given() || events_.Real(value, text); }
  bool string(std::string& value) override { return Given() || events_.String(value); }
  bool binary(json::binary_t& /*value*/) override { return false; }  // not in JSON
  bool start_object(size_t /*count*/) override { return Given() || events_.BeginObject(); }
  bool key(std::string& value) override { return Given() || events_.Key(value); }
  bool end_object() override { return Given() || events_.EndObject(); }
  bool start_array(size_t /*count*/) override { return Given() || events_.BeginArray(); }
  bool end_array() override { return Given() || events_.EndArray(); }
  bool parse_error(size_t position, const std::string& /*token*/, const json::exception& problem) override {
    end = {problem.id == kNumberOverflow ? JsonEnd::Kind::kTooGreat : JsonEnd::Kind::kNoJson, position};
    return false;
  }

 private:
  bool Given() { return given_ > 0 && given_-- > 0; }

  JsonEvents& events_;
  size_t given_;
};

}  // namespace

JsonEnd ReadJsonEvents(std::string_view text, JsonEvents& events) {
  Walk walk(events);
  // About a byte-order mark, and about half of a surrogate pair, versions of simdjson differ.
  const bool plain = !text.starts_with('\xEF') && text.find("\\u") == std::string_view::npos;
  if (plain && walk.Document(text)) return {};
  if (walk.stopped()) return {JsonEnd::Kind::kStopped};
  Rest rest(events, walk.given());
  if (json::sax_parse(text.data(), text.data() + text.size(), &rest)) return {};
  return rest.end;
}

}  // namespace mimo
