//! Finds the bytes that end or interrupt a JSON string, 64 at a time.
//!
//! Every x86-64 CPU has SSE2, so its instructions need no detection and are compiled into the scanner. Wider ones would
//! need detection and a function call each.

/// The text of these bytes, if they are UTF-8. Nearly all events are ASCII, which is quicker to see than UTF-8.
#[inline]
pub fn utf8(bytes: &[u8]) -> Option<&str> {
    if !bytes.is_ascii() {
        return std::str::from_utf8(bytes).ok();
    }
    #[expect(unsafe_code, reason = "the standard library's check would look at every byte a second time")]
    // SAFETY: ASCII is UTF-8.
    unsafe {
        Some(std::str::from_utf8_unchecked(bytes))
    }
}

/// Bytes classified at once.
pub const BLOCK: usize = 64;

/// One bit a byte, the first one lowest: is it `"`, `\` or below 0x20?
#[cfg(target_arch = "x86_64")]
#[inline]
pub fn special(block: &[u8; BLOCK]) -> u64 {
    #[expect(unsafe_code, reason = "the compiler does not know of its own that x86-64 has SSE2")]
    // SAFETY: every x86-64 has SSE2, and Rust's targets enable it.
    unsafe {
        sse2(block)
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse2")]
#[inline]
fn sse2(block: &[u8; BLOCK]) -> u64 {
    use std::arch::x86_64::{
        _mm_cmpeq_epi8, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x, _mm_set1_epi8,
    };
    let (lanes, _) = block.as_chunks::<16>();
    let mut mask = 0;
    for lane in lanes.iter().rev() {
        let lane = u128::from_le_bytes(*lane);
        let bytes = _mm_set_epi64x((lane >> 64) as i64, lane as i64);
        let quote = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'"' as i8));
        let backslash = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'\\' as i8));
        let control = _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(0x1f)), bytes);
        let any = _mm_or_si128(_mm_or_si128(quote, backslash), control);
        mask = mask << 16 | u64::from(_mm_movemask_epi8(any) as u16);
    }
    mask
}

/// One bit a byte, the first one lowest: is it `"`, `\` or below 0x20?
#[cfg(not(target_arch = "x86_64"))]
#[inline]
pub fn special(block: &[u8; BLOCK]) -> u64 {
    portable(block)
}

/// The same, eight bytes at a time in one machine word.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn portable(block: &[u8; BLOCK]) -> u64 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    const EACH: u64 = 0x0101_0101_0101_0101;
    // The high bit of every byte that is not zero; no byte borrows from another.
    let not_zero = |word: u64| (((word & LOW) + LOW) | word) & !LOW;
    let (words, _) = block.as_chunks::<8>();
    words.iter().rev().fold(0, |mask, word| {
        let word = u64::from_le_bytes(*word);
        let quote = !not_zero(word ^ (EACH * u64::from(b'"')));
        let backslash = !not_zero(word ^ (EACH * u64::from(b'\\')));
        let control = !not_zero(word & (EACH * 0xe0));
        // The eight high bits, gathered in the highest byte.
        let any = ((quote | backslash | control) & !LOW) >> 7;
        mask << 8 | any.wrapping_mul(0x0102_0408_1020_4080) >> 56
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(block: &[u8; BLOCK]) {
        let plain =
            block.iter().rev().fold(0, |mask, byte| mask << 1 | u64::from(matches!(byte, b'"' | b'\\' | ..0x20)));
        assert_eq!(special(block), plain, "{block:?}");
        assert_eq!(portable(block), plain, "{block:?}");
    }

    #[test]
    fn every_byte_at_every_place_is_classified() {
        for byte in 0..=255 {
            for around in [b'a', b' ', b'"', 0, 0x1f, 0x80, 0xff, byte] {
                for place in 0..BLOCK {
                    let mut block = [around; BLOCK];
                    block[place] = byte;
                    check(&block);
                }
            }
        }
    }
}
