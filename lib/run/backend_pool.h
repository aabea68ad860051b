// As many steps compute at a time as there are threads; others read and write meanwhile.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <vector>

#include "lib/run/backend.h"

namespace mimo {

// Thread-safe.
class BackendPool {
 public:
  void Add(std::unique_ptr<Backend> backend) { idle_.push_back(std::move(backend)); }  // before any is lent

  // One of them on loan, given back by the destructor. Waits for one; whoever has one waits for nothing that others
  // hold.
  class Loan {
   public:
    explicit Loan(BackendPool& pool) : pool_(pool), backend_(pool.Take()) {}
    ~Loan() { pool_.Give(std::move(backend_)); }
    Loan(const Loan&) = delete;
    Loan& operator=(const Loan&) = delete;
    Backend& operator*() const { return *backend_; }

   private:
    BackendPool& pool_;
    std::unique_ptr<Backend> backend_;
  };

 private:
  std::unique_ptr<Backend> Take() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !idle_.empty(); });
    std::unique_ptr<Backend> backend = std::move(idle_.back());
    idle_.pop_back();
    return backend;
  }
  void Give(std::unique_ptr<Backend> backend) {
    const std::lock_guard lock(mutex_);
    idle_.push_back(std::move(backend));
    changed_.notify_one();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::unique_ptr<Backend>> idle_;
};

}  // namespace mimo
