// Memory of large arrays, kept once they are freed for the next ones. The system fills every new page with
// zeros when it is first touched, which takes longer than most kernels need for the whole array (66 MB: 11 ms
// new, 3.4 ms kept). The pages that are kept are the system's to take when it runs short (MADV_FREE).
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <mutex>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#endif

namespace pystn {

#ifdef MADV_FREE

// The memory of smaller arrays is kept by malloc (glibc's learns to, up to that).
constexpr std::size_t cached_from = std::size_t(32) << 20;
constexpr std::size_t kept_at_first = std::size_t(256) << 20;

inline char* new_pages(std::size_t length) {
  void* base = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) return nullptr;
#ifdef MADV_HUGEPAGE
  madvise(base, length, MADV_HUGEPAGE);
#endif
  return static_cast<char*>(base);
}

inline void free_pages(char* base, std::size_t length) { munmap(base, length); }

// Whether the system can take pages until they are written to again.
inline bool offer_pages(char* base, std::size_t length) { return madvise(base, length, MADV_FREE) == 0; }

#else  // all memory is NumPy's

constexpr std::size_t cached_from = SIZE_MAX, kept_at_first = 0;
inline char* new_pages(std::size_t) { return nullptr; }
inline void free_pages(char*, std::size_t) {}
inline bool offer_pages(char*, std::size_t) { return false; }

#endif

class MemoryCache {
 public:
  // As malloc: null if there is no such memory.
  void* allocate(std::size_t bytes) {
    if (bytes > SIZE_MAX / 2) return nullptr;
    const std::size_t needed = (bytes + start + huge_page - 1) / huge_page * huge_page;
    Block block = take(needed);
    if (!block.base) block = {new_pages(needed), needed};
    if (!block.base && drop_all()) block.base = new_pages(needed);
    if (!block.base) return nullptr;
    std::memcpy(block.base, &block.length, sizeof block.length);
    return block.base + start;
  }

  void release(void* data) {
    if (!data) return;
    const Block block = block_of(data);
    const bool offered = offer_pages(block.base, block.length);
    Dropped dropped;
    const std::lock_guard<std::mutex> guard(mutex_);
    if (!offered || block.length > limit_) return dropped.add(block);
    while (count_ == most || kept_ + block.length > limit_) dropped.add(remove(0));
    blocks_[count_++] = block;
    kept_ += block.length;
  }

  // Bytes that the array of this memory may have.
  static std::size_t capacity(void* data) { return block_of(data).length - start; }

  std::size_t kept() {
    const std::lock_guard<std::mutex> guard(mutex_);
    return kept_;
  }

  std::size_t limit() {
    const std::lock_guard<std::mutex> guard(mutex_);
    return limit_;
  }

  void set_limit(std::size_t bytes) {
    Dropped dropped;
    const std::lock_guard<std::mutex> guard(mutex_);
    limit_ = bytes;
    while (kept_ > limit_) dropped.add(remove(0));
  }

 private:
  static constexpr std::size_t start = 64;  // of an array in its block, behind the length
  static constexpr std::size_t huge_page = std::size_t(2) << 20;
  static constexpr int most = 16;

  struct Block {
    char* base;
    std::size_t length;
  };
  // Blocks whose pages are given back at the end, which takes a while: when others can have the lock.
  struct Dropped {
    Block blocks[most + 1];
    int count = 0;

    void add(const Block& block) { blocks[count++] = block; }
    ~Dropped() {
      for (int i = 0; i < count; ++i) free_pages(blocks[i].base, blocks[i].length);
    }
  };

  static Block block_of(void* data) {
    Block block{static_cast<char*>(data) - start, 0};
    std::memcpy(&block.length, block.base, sizeof block.length);
    return block;
  }

  // The smallest block that is large enough, and not larger by more than a quarter.
  Block take(std::size_t needed) {
    const std::lock_guard<std::mutex> guard(mutex_);
    int best = -1;
    for (int i = 0; i < count_; ++i) {
      const std::size_t length = blocks_[i].length;
      if (length < needed || length - needed > needed / 4) continue;
      if (best < 0 || length < blocks_[best].length) best = i;
    }
    return best < 0 ? Block{nullptr, 0} : remove(best);
  }

  Block remove(int i) {
    const Block block = blocks_[i];
    --count_;
    for (; i < count_; ++i) blocks_[i] = blocks_[i + 1];
    kept_ -= block.length;
    return block;
  }

  bool drop_all() {
    Dropped dropped;
    const std::lock_guard<std::mutex> guard(mutex_);
    while (count_) dropped.add(remove(0));
    return dropped.count > 0;
  }

  std::mutex mutex_;
  Block blocks_[most] = {};  // the one that was freed first is the first
  int count_ = 0;
  std::size_t kept_ = 0, limit_ = kept_at_first;
};

// Never destroyed: arrays may outlive everything else of the process.
inline MemoryCache& memory_cache() {
  static MemoryCache* cache = new MemoryCache;
  return *cache;
}

// What NumPy asks of a memory handler (NEP 49).

inline void* cache_malloc(void*, std::size_t bytes) { return memory_cache().allocate(bytes); }

inline void* cache_calloc(void*, std::size_t count, std::size_t size) {
  if (size && count > SIZE_MAX / size) return nullptr;
  void* data = memory_cache().allocate(count * size);
  return data ? std::memset(data, 0, count * size) : nullptr;
}

inline void* cache_realloc(void*, void* data, std::size_t bytes) {
  void* moved = memory_cache().allocate(bytes);
  if (moved && data) {
    std::memcpy(moved, data, std::min(bytes, MemoryCache::capacity(data)));
    memory_cache().release(data);
  }
  return moved;
}

inline void cache_free(void*, void* data, std::size_t) { memory_cache().release(data); }

}  // namespace pystn
