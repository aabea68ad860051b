// The progress line of the commands (MakeProgress of cli.h).
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <mutex>
#include <string>

#include "lib/base/checked.h"
#include "tools/cli.h"
#include "tools/print.h"

namespace mimo::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kRedrawInterval = std::chrono::milliseconds(200);
constexpr auto kLineInterval = std::chrono::seconds(2);  // between plain lines: a quick job prints none

std::string FormatDuration(double seconds) {
  const long long whole = std::llround(seconds), minutes = whole / 60;
  char text[32];
  if (minutes >= 60)
    std::snprintf(text, sizeof text, "%lldh%02lldm", minutes / 60, minutes % 60);
  else
    std::snprintf(text, sizeof text, "%lldm%02llds", minutes, whole % 60);
  return text;
}

// Advance() only adds; a thread that finds the lock taken leaves the drawing to its holder.
class TerminalProgress : public ProgressObserver {
 public:
  explicit TerminalProgress(bool terminal) : terminal_(terminal) {}

  void Start(uint64_t total_bytes) override {
    std::lock_guard<std::mutex> lock(mutex_);
    total_ = total_bytes;
    done_ = 0;
    tenth_ = 0;
    start_ = last_draw_ = Clock::now();
  }

  void Advance(uint64_t bytes) override {
    const uint64_t done = done_.fetch_add(bytes) + bytes;
    std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock()) return;
    const Clock::time_point now = Clock::now();
    const bool due =
        terminal_ ? now - last_draw_ >= kRedrawInterval : Tenths(done) > tenth_ && now - last_draw_ >= kLineInterval;
    if (!due) return;
    tenth_ = Tenths(done);
    last_draw_ = now;
    Draw(done, now);
  }

  void Step(const char* what) override {
    std::lock_guard<std::mutex> lock(mutex_);
    EndLine();
    Print(stderr, "%s\n", what);
  }

  void Finish() override {
    std::lock_guard<std::mutex> lock(mutex_);
    const Clock::time_point now = Clock::now();
    if (terminal_ || tenth_ > 0) Draw(done_, now);
    EndLine();
  }

 private:
  int Tenths(uint64_t done) const {
    return total_ == 0 ? 10 : static_cast<int>(10.0 * static_cast<double>(done) / static_cast<double>(total_));
  }

  void Draw(uint64_t done, Clock::time_point now) {
    const double seconds = std::chrono::duration<double>(now - start_).count();
    const double rate = seconds > 0 ? static_cast<double>(done) / seconds : 0;
    const double fraction = total_ == 0 ? 1.0 : std::min(1.0, static_cast<double>(done) / static_cast<double>(total_));
    std::string line = FormatBytes(done) + " of " + FormatBytes(total_);
    char text[96];
    std::snprintf(text, sizeof text, " (%.0f %%), ", 100 * fraction);
    line += text;
    line += FormatBytes(static_cast<uint64_t>(rate)) + "/s";
    if (fraction < 1 && rate > 0)
      line += ", " + FormatDuration(static_cast<double>(total_ - done) / rate) + " left";
    else
      line += ", " + FormatDuration(seconds);
    Print(stderr, terminal_ ? "\r%s\033[K" : "%s\n", line);
    drawn_ = terminal_;
  }

  void EndLine() {
    if (drawn_) Print(stderr, "\n");
    drawn_ = false;
  }

  const bool terminal_;
  std::mutex mutex_;
  std::atomic<uint64_t> done_{0};
  uint64_t total_ = 0;
  int tenth_ = 0;       // last tenth that was printed
  bool drawn_ = false;  // the terminal's cursor stands in our line
  Clock::time_point start_{}, last_draw_{};
};

}  // namespace

std::unique_ptr<ProgressObserver> MakeProgress(const CommonOptions& options) {
  if (options.quiet || options.no_progress) return nullptr;
  return std::make_unique<TerminalProgress>(isatty(STDERR_FILENO) != 0);
}

}  // namespace mimo::cli
