// JSON documents that people read and compare: one member per line, long lists with one element per line. Written as a
// stream, so that the length of a list costs no memory.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "lib/base/status.h"
#include "lib/base/text_sink.h"
#include "lib/json/text.h"

namespace mimo {

// Members come in the order of the calls; `begin` is the text before the first of them: a brace and at least one
// member. After an error of the sink the rest is swallowed. `sink` outlives it.
class JsonDocument {
 public:
  JsonDocument(const TextSink& sink, std::string_view begin) : sink_(sink), text_(begin) {}

  // Begins a member on a line of its own; the caller appends its value.
  std::string& Key(std::string_view key) {
    text_ += ",\n\"";
    text_ += key;
    return text_ += "\":";
  }
  void String(std::string_view key, std::string_view value) { AppendJsonString(Key(key), value); }

  // A member that is a list with one element per line. Between the two calls the caller appends the elements.
  void BeginList(std::string_view key) { list_.emplace(Key(key), "\n"); }
  std::string& Element() {
    if (text_.size() >= kFlushBytes) Flush();
    return list_->Next();
  }
  void EndList() { list_->Close("\n"); }
  // All of them, each appended by `append(out, value)`.
  template <class Values, class Append>
  void List(std::string_view key, const Values& values, Append append) {
    BeginList(key);
    for (const auto& value : values) append(Element(), value);
    EndList();
  }

  // Ends the document with `end`, and returns the first error of the sink.
  Status Finish(std::string_view end) {
    text_ += end;
    Flush();
    return std::move(status_);
  }

 private:
  static constexpr size_t kFlushBytes = 1 << 16;

  void Flush() {
    if (status_.ok()) status_ = sink_(text_);
    text_.clear();
  }

  const TextSink& sink_;
  std::string text_;
  std::optional<JsonList> list_;
  Status status_;
};

}  // namespace mimo
