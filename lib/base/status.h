// Errors as values. A function that can fail returns Status (nothing to give) or Result<T>.
// The library never throws across its interface, never aborts and never prints: a tool decides what to show.
#pragma once

#include <concepts>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>

namespace mimo {

// The value is the exit code of a tool that stops on this error (docs/commands.md).
enum class ErrorCode : uint8_t {
  kCheckFailed = 1,   // a check found a difference, or a required property does not hold
  kUsage = 2,         // contradictory or unknown options
  kBadInput = 3,      // malformed, inconsistent or undecidable checkpoint
  kIo = 4,            // the system refused: may be retried
  kDevice = 5,        // a GPU failed: may be retried
  kInterrupted = 130  // stopped on request; resumable
};

// Everything a user needs to act: where, what was expected, what was found, what to do. Empty fields are left out.
struct Error {
  ErrorCode code = ErrorCode::kBadInput;
  std::string what;         // one clause, e.g. "scale has the wrong shape"
  std::string file = {};    // path or file name
  std::string tensor = {};  // full tensor name
  std::string expected = {};
  std::string found = {};
  std::string advice = {};  // what to do, as an imperative
  std::string id = {};      // of refusals that have a name: one of docs/findings.md, "foreign.gptq"

  // "FILE: tensor NAME: WHAT: expected X, found Y; ADVICE [ID]", fields that are empty left out.
  std::string Message() const;

  // An error is built by name, from one of the functions below:
  //   return BadInput("scale has the wrong shape").File(path).Tensor(name).Expected(Text(a)).Found(Text(b));
  Error File(std::string text) && { return With(&Error::file, std::move(text)); }
  Error Tensor(std::string text) && { return With(&Error::tensor, std::move(text)); }
  Error Expected(std::string text) && { return With(&Error::expected, std::move(text)); }
  Error Expected(std::integral auto number) && { return With(&Error::expected, std::to_string(number)); }
  Error Found(std::string text) && { return With(&Error::found, std::move(text)); }
  Error Found(std::integral auto number) && { return With(&Error::found, std::to_string(number)); }
  Error Advice(std::string text) && { return With(&Error::advice, std::move(text)); }
  Error Id(std::string text) && { return With(&Error::id, std::move(text)); }

  // Sets one field, and hands the error on.
  Error With(std::string Error::*field, std::string text);
};

// An error of each code, from what is wrong.
Error CheckFailed(std::string what);
Error UsageError(std::string what);
Error BadInput(std::string what);
Error IoError(std::string what);
Error DeviceError(std::string what);
Error Interrupted(std::string what);

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Error error) : error_(std::make_unique<Error>(std::move(error))) {}  // NOLINT(google-explicit-constructor)
  bool ok() const { return error_ == nullptr; }
  const Error& error() const { return *error_; }  // only when !ok()
  Error TakeError() { return std::move(*error_); }

 private:
  std::unique_ptr<Error> error_;
};

template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}      // NOLINT(google-explicit-constructor)
  Result(Error error) : state_(std::move(error)) {}  // NOLINT(google-explicit-constructor)
  bool ok() const { return state_.index() == 0; }
  T& value() & { return std::get<0>(state_); }
  const T& value() const& { return std::get<0>(state_); }
  T&& value() && { return std::get<0>(std::move(state_)); }
  const Error& error() const { return std::get<1>(state_); }
  Error TakeError() { return std::get<1>(std::move(state_)); }
  T* operator->() { return &std::get<0>(state_); }
  T& operator*() & { return std::get<0>(state_); }

 private:
  std::variant<T, Error> state_;
};

}  // namespace mimo

#define MIMO_CONCAT_INNER(a, b) a##b
#define MIMO_CONCAT(a, b) MIMO_CONCAT_INNER(a, b)

// Returns the error of `expr` (a Status) from the enclosing function.
#define MIMO_RETURN_IF_ERROR(expr)                                      \
  do {                                                                  \
    ::mimo::Status mimo_status_ = (expr);                               \
    if (!mimo_status_.ok()) return std::move(mimo_status_).TakeError(); \
  } while (false)

// Evaluates `expr` (a Result<T>); on success declares or assigns `lhs`, else returns the error.
#define MIMO_ASSIGN_OR_RETURN(lhs, expr) MIMO_ASSIGN_OR_RETURN_INNER(MIMO_CONCAT(mimo_result_, __LINE__), lhs, expr)
#define MIMO_ASSIGN_OR_RETURN_INNER(result, lhs, expr)    \
  auto result = (expr);                                   \
  if (!result.ok()) return std::move(result).TakeError(); \
  lhs = std::move(result).value()
