//! The Huffman code of HPACK (RFC 7541, Appendix B): just enough to walk a
//! string symbol by symbol and to overwrite single symbols where they stand.
//!
//! The code is canonical: codes of one length are consecutive, in the order of
//! their symbols, and each length goes on where the shorter one stopped. So the
//! lengths alone are the whole table, and the codes are derived at compile time
//! (the tests hold them against the RFC's own examples).

/// Length in bits of each symbol's code; the last one is EOS.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// The longest code, that of EOS and of three control characters.
const LONGEST: usize = 30;

/// All codes of one length: `first`, `first + 1`, … for the `count` symbols at
/// `start` of `BY_CODE`.
#[derive(Clone, Copy)]
struct Level {
    first: u32,
    count: u32,
    start: u32,
}

const TABLES: ([Level; LONGEST], [u16; 257]) = tables();
const LEVELS: [Level; LONGEST] = TABLES.0;
/// The symbols in the order of their codes.
static BY_CODE: [u16; 257] = TABLES.1;

// Runs at compile time only: an index out of range would be a build error.
const fn tables() -> ([Level; LONGEST], [u16; 257]) {
    let mut levels = [Level { first: 0, count: 0, start: 0 }; LONGEST];
    let mut by_code = [0u16; 257];
    let (mut code, mut placed, mut len) = (0u32, 0usize, 1usize);
    while len <= LONGEST {
        code <<= 1;
        let start = placed;
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == len {
                by_code[placed] = symbol as u16;
                placed += 1;
            }
            symbol += 1;
        }
        let count = (placed - start) as u32;
        levels[len - 1] = Level { first: code, count, start: start as u32 };
        code += count;
        len += 1;
    }
    (levels, by_code)
}

/// The bits are no Huffman string: EOS inside, or padding which is not the
/// beginning of EOS or is a whole byte and more.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Invalid;

fn bit(bytes: &[u8], at: usize) -> Option<u32> {
    let byte = bytes.get(at / 8)?;
    Some(u32::from(byte >> (7 - at % 8)) & 1)
}

/// The symbol whose code begins at bit `at`, and the bit after it; `None` at the
/// end of the string, the padding included.
pub(super) fn symbol(bytes: &[u8], at: usize) -> Result<Option<(u8, usize)>, Invalid> {
    let (mut code, mut end) = (0u32, at);
    for level in &LEVELS {
        let Some(bit) = bit(bytes, end) else {
            let padding = end - at;
            let all_ones = code == (1u32 << padding) - 1;
            return if padding < 8 && all_ones { Ok(None) } else { Err(Invalid) };
        };
        code = code << 1 | bit;
        end += 1;
        if let Some(nth) = code.checked_sub(level.first)
            && nth < level.count
        {
            let found = BY_CODE.get((level.start + nth) as usize).ok_or(Invalid)?;
            // EOS does not fit a byte, and must not occur in a string.
            let byte = u8::try_from(*found).map_err(|_| Invalid)?;
            return Ok(Some((byte, end)));
        }
    }
    Err(Invalid)
}

/// Whether the string decodes to exactly `plain`.
pub(super) fn decodes_to(bytes: &[u8], plain: &[u8]) -> Result<bool, Invalid> {
    let (mut at, mut rest) = (0, plain.iter());
    while let Some((byte, end)) = symbol(bytes, at)? {
        if rest.next() != Some(&byte) {
            return Ok(false);
        }
        at = end;
    }
    Ok(rest.next().is_none())
}

/// Overwrites the `len` bits from bit `at` with the low bits of `code`. Bits
/// beyond the slice are dropped, though no caller asks for any.
pub(super) fn overwrite(bytes: &mut [u8], at: usize, code: u8, len: usize) {
    for nth in 0..len.min(8) {
        let wanted = code >> (len.min(8) - 1 - nth) & 1;
        let place = at + nth;
        if let Some(byte) = bytes.get_mut(place / 8) {
            let shift = 7 - place % 8;
            *byte = *byte & !(1 << shift) | wanted << shift;
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::transport) fn code_of(symbol: u16) -> (u32, usize) {
        let nth = BY_CODE.iter().position(|s| *s == symbol).unwrap() as u32;
        let len = usize::from(LENGTHS[usize::from(symbol)]);
        let level = LEVELS[len - 1];
        (level.first + nth - level.start, len)
    }

    pub(in crate::transport) fn encode(plain: &[u8]) -> Vec<u8> {
        let mut bits = Vec::new();
        for byte in plain {
            let (code, len) = code_of(u16::from(*byte));
            bits.extend((0..len).rev().map(|shift| (code >> shift & 1) as u8));
        }
        bits.resize(bits.len().div_ceil(8) * 8, 1);
        bits.chunks(8).map(|byte| byte.iter().fold(0, |all, bit| all << 1 | bit)).collect()
    }

    pub(in crate::transport) fn decode(bytes: &[u8]) -> Result<Vec<u8>, Invalid> {
        let (mut at, mut plain) = (0, Vec::new());
        while let Some((byte, end)) = symbol(bytes, at)? {
            plain.push(byte);
            at = end;
        }
        Ok(plain)
    }

    fn hex(text: &str) -> Vec<u8> {
        text.as_bytes()
            .chunks(2)
            .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap())
            .collect()
    }

    #[test]
    fn the_examples_of_the_rfc_decode_and_encode() {
        for (plain, coded) in [
            ("www.example.com", "f1e3c2e5f23a6ba0ab90f4ff"),
            ("no-cache", "a8eb10649cbf"),
            ("custom-key", "25a849e95ba97d7f"),
            ("custom-value", "25a849e95bb8e8b4bf"),
            ("302", "6402"),
            ("private", "aec3771a4b"),
            ("Mon, 21 Oct 2013 20:13:21 GMT", "d07abe941054d444a8200595040b8166e082a62d1bff"),
            ("https://www.example.com", "9d29ad171863c78f0b97c8e9ae82ae43d3"),
            (
                "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
                "94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
            ),
        ] {
            assert_eq!(decode(&hex(coded)).unwrap(), plain.as_bytes());
            assert_eq!(encode(plain.as_bytes()), hex(coded));
            assert!(decodes_to(&hex(coded), plain.as_bytes()).unwrap());
        }
    }

    #[test]
    fn codes_spot_checked_against_appendix_b() {
        for (symbol, code, len) in [
            (0, 0x1ff8, 13),
            (1, 0x7fffd8, 23),
            (10, 0x3ffffffc, 30),
            (b'%'.into(), 0x15, 6),
            (b'-'.into(), 0x16, 6),
            (b'/'.into(), 0x18, 6),
            (b'\\'.into(), 0x7fff0, 19),
            (b'~'.into(), 0x1ffd, 13),
            (249, 0xffffffe, 28),
            (255, 0x3ffffee, 26),
            (256, 0x3fffffff, 30),
        ] {
            assert_eq!(code_of(symbol), (code, len), "symbol {symbol}");
        }
    }

    #[test]
    fn every_byte_round_trips() {
        for byte in 0..=255u8 {
            for plain in [vec![byte], vec![byte, b'a', byte], vec![byte; 9]] {
                assert_eq!(decode(&encode(&plain)).unwrap(), plain);
            }
        }
    }

    #[test]
    fn eos_and_wrong_padding_are_invalid() {
        assert_eq!(decode(&[0xff; 4]), Err(Invalid)); // EOS, then padding
        assert_eq!(decode(&[0xff]), Err(Invalid)); // a whole byte of padding
        assert_eq!(decode(&[0b0001_1000]), Err(Invalid)); // 'a', zeroes behind
        assert_eq!(decode(&[0b0001_1111]).unwrap(), b"a");
        assert_eq!(decode(&[]).unwrap(), b"");
    }
}
