//! Walks an HPACK header block (RFC 7541) and makes `:authority` acceptable in
//! place.
//!
//! Only the outline of each field is read: representation, name, and where the
//! value lies. No dynamic table is kept, for two reasons:
//!
//! * An *indexed* authority (name and value from the table) was a literal
//!   before, on the same connection; that literal was rewritten on its way, so
//!   the decoder behind us already stored the acceptable value. `%`, `/` and `-`
//!   are one byte each when decoded, so the sizes of the entries, and with them
//!   what is evicted when, are the same at both ends.
//! * A literal value whose *name* is an entry of the dynamic table (index 62 and
//!   up) could in theory mean `:authority`. Encoders look up names in the static
//!   table first, where `:authority` is entry 1, or write the name out; both are
//!   handled. A client which did otherwise would get the answer it gets without
//!   us: its stream is refused.

use std::ops::Range;

use super::huffman;

const AUTHORITY: &[u8] = b":authority";
/// Of the static table (RFC 7541, Appendix A).
const AUTHORITY_INDEX: u64 = 1;
/// `-` in the Huffman code; `%` and `/` have six bits too.
const DASH: (u8, usize) = (0x16, 6);

/// Not a header block, as far as we can tell.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl From<huffman::Invalid> for Malformed {
    fn from(_: huffman::Invalid) -> Self {
        Malformed
    }
}

/// Replaces `%` and `/` by `-` in each value of `:authority`; says whether there
/// were any. After an error the block may be half rewritten: throw it away.
pub(super) fn rewrite(block: &mut [u8]) -> Result<bool, Malformed> {
    let (mut at, mut changed) = (0, false);
    while let Some(first) = block.get(at) {
        let prefix = match first {
            // Indexed field: nothing but a number.
            0x80.. => {
                (_, at) = integer(block, at, 7)?;
                continue;
            }
            // Dynamic table size update: likewise.
            0x20..0x40 => {
                (_, at) = integer(block, at, 5)?;
                continue;
            }
            // Literal with incremental indexing.
            0x40..0x80 => 6,
            // Literal without indexing, literal never indexed.
            0x00..0x20 => 4,
        };
        let is_authority;
        (is_authority, at) = match integer(block, at, prefix)? {
            (0, next) => {
                let name = string(block, next)?;
                (name.is_authority(block)?, name.bytes.end)
            }
            (index, next) => (index == AUTHORITY_INDEX, next),
        };
        let value = string(block, at)?;
        at = value.bytes.end;
        if is_authority {
            changed |= value.replace(block)?;
        }
    }
    Ok(changed)
}

/// An integer with a prefix of `bits` bits (RFC 7541, 5.1), and what follows it.
fn integer(block: &[u8], at: usize, bits: u32) -> Result<(u64, usize), Malformed> {
    let mask = (1u8 << bits) - 1;
    let first = block.get(at).ok_or(Malformed)? & mask;
    let (mut value, mut next) = (u64::from(first), at + 1);
    if first < mask {
        return Ok((value, next));
    }
    // Five more bytes hold every 32-bit number; nothing larger has a meaning.
    for shift in [0, 7, 14, 21, 28] {
        let byte = *block.get(next).ok_or(Malformed)?;
        next += 1;
        value += u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok((value, next));
        }
    }
    Err(Malformed)
}

/// Where a string literal lies (RFC 7541, 5.2), always within the block.
struct Literal {
    huffman: bool,
    bytes: Range<usize>,
}

fn string(block: &[u8], at: usize) -> Result<Literal, Malformed> {
    let huffman = block.get(at).ok_or(Malformed)? & 0x80 != 0;
    let (len, start) = integer(block, at, 7)?;
    let len = usize::try_from(len).map_err(|_| Malformed)?;
    let end = start.checked_add(len).ok_or(Malformed)?;
    if end > block.len() {
        return Err(Malformed);
    }
    Ok(Literal { huffman, bytes: start..end })
}

impl Literal {
    fn is_authority(&self, block: &[u8]) -> Result<bool, Malformed> {
        let bytes = block.get(self.bytes.clone()).ok_or(Malformed)?;
        if self.huffman {
            Ok(huffman::decodes_to(bytes, AUTHORITY)?)
        } else {
            Ok(bytes == AUTHORITY)
        }
    }

    fn replace(&self, block: &mut [u8]) -> Result<bool, Malformed> {
        let bytes = block.get_mut(self.bytes.clone()).ok_or(Malformed)?;
        let mut changed = false;
        if self.huffman {
            let mut at = 0;
            while let Some((symbol, end)) = huffman::symbol(bytes, at)? {
                if refused(symbol) {
                    let (code, len) = DASH;
                    huffman::overwrite(bytes, at, code, len);
                    changed = true;
                }
                at = end;
            }
        } else {
            for byte in bytes.iter_mut().filter(|byte| refused(**byte)) {
                *byte = b'-';
                changed = true;
            }
        }
        Ok(changed)
    }
}

/// What a socket path brings into an authority and the `http` crate refuses.
fn refused(byte: u8) -> bool {
    matches!(byte, b'%' | b'/')
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::huffman::tests::encode;
    use super::*;
    use proptest::prelude::*;

    /// The three literal representations: first byte, bits of the prefix.
    const LITERALS: [(u8, u32); 3] = [(0x40, 6), (0x00, 4), (0x10, 4)];

    fn number(flags: u8, bits: u32, value: usize) -> Vec<u8> {
        let mask = (1usize << bits) - 1;
        if value < mask {
            return vec![flags | value as u8];
        }
        let (mut out, mut rest) = (vec![flags | mask as u8], value - mask);
        while rest >= 128 {
            out.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        out.push(rest as u8);
        out
    }

    fn text(plain: &str, huffman: bool) -> Vec<u8> {
        let bytes = if huffman { encode(plain.as_bytes()) } else { plain.as_bytes().to_vec() };
        let flag = if huffman { 0x80 } else { 0 };
        [number(flag, 7, bytes.len()), bytes].concat()
    }

    /// A field with its name written out.
    pub(in crate::transport) fn named(name: &str, value: &str, huffman: bool) -> Vec<u8> {
        [vec![0x40], text(name, huffman), text(value, huffman)].concat()
    }

    /// A field with its name taken from a table.
    pub(in crate::transport) fn indexed(index: usize, value: &str, huffman: bool) -> Vec<u8> {
        [number(0x40, 6, index), text(value, huffman)].concat()
    }

    fn rewritten(mut block: Vec<u8>) -> Vec<u8> {
        rewrite(&mut block).unwrap();
        block
    }

    #[test]
    fn authority_is_rewritten_in_each_literal_representation() {
        for (flags, bits) in LITERALS {
            for huffman in [false, true] {
                for name in [
                    number(flags, bits, 1),
                    [vec![flags], text(":authority", false)].concat(),
                    [vec![flags], text(":authority", true)].concat(),
                ] {
                    let field = |value| [name.clone(), text(value, huffman)].concat();
                    for (from, to) in [
                        ("run%2Fx.sock", "run-2Fx.sock"),
                        ("/tmp/x.sock", "-tmp-x.sock"),
                        ("%", "-"),
                        ("a%/%b", "a---b"),
                        ("", ""),
                        ("localhost", "localhost"),
                    ] {
                        assert_eq!(rewritten(field(from)), field(to));
                    }
                }
            }
        }
    }

    #[test]
    fn a_symbol_is_replaced_at_each_bit_offset() {
        // 'a' has five bits: n of them shift what follows to each offset.
        for n in 0..17 {
            let value = |c: &str| format!("{}{c}{c}z", "a".repeat(n));
            for c in ["%", "/"] {
                assert_eq!(rewritten(indexed(1, &value(c), true)), indexed(1, &value("-"), true));
            }
        }
    }

    #[test]
    fn other_fields_stay_as_they_are() {
        let mut block = Vec::new();
        for huffman in [false, true] {
            block.extend(indexed(4, "/grpc.health.v1.Health/Check", huffman));
            block.extend(named("x-path", "%2Fa/b", huffman));
            block.extend(named(":authority2", "%2Fa/b", huffman));
            block.extend(named(":authorit", "%2Fa/b", huffman));
            block.extend(indexed(62, "%2Fa/b", huffman));
            block.extend(indexed(300, "%2Fa/b", huffman));
        }
        assert_eq!(rewritten(block.clone()), block);
    }

    #[test]
    fn fields_round_the_authority_are_walked() {
        let around = |authority: &str| {
            [
                number(0x20, 5, 4096), // table size update
                number(0x80, 7, 3),    // indexed, short and long
                number(0x80, 7, 1000),
                indexed(4, &"/x%".repeat(100), true),
                indexed(1, authority, false),
                named("te", "trailers", false),
                indexed(1, authority, true),
            ]
            .concat()
        };
        assert_eq!(rewritten(around("%2Fa")), around("-2Fa"));
    }

    #[test]
    fn an_acceptable_authority_counts_as_unchanged() {
        assert_eq!(rewrite(&mut indexed(1, "localhost:50051", true)), Ok(false));
        assert_eq!(rewrite(&mut indexed(1, "a%b", true)), Ok(true));
        assert_eq!(rewrite(&mut []), Ok(false));
    }

    #[test]
    fn cut_off_and_oversized_blocks_are_malformed() {
        for huffman in [false, true] {
            let block = named(":authority", "run%2Fx.sock", huffman);
            for len in 1..block.len() {
                assert_eq!(rewrite(&mut block[..len].to_vec()), Err(Malformed));
            }
        }
        assert_eq!(rewrite(&mut [0xff; 12]), Err(Malformed));
        let mut endless = [0x41, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        assert_eq!(rewrite(&mut endless), Err(Malformed));
    }

    proptest! {
        #[test]
        fn arbitrary_blocks_never_panic(mut block: Vec<u8>) {
            let _ = rewrite(&mut block);
        }

        #[test]
        fn any_value_changes_in_those_two_bytes_only(value in "[ -~]{0,80}", huffman: bool) {
            let expected = value.replace(['%', '/'], "-");
            prop_assert_eq!(
                rewritten(indexed(1, &value, huffman)),
                indexed(1, &expected, huffman)
            );
        }
    }
}
