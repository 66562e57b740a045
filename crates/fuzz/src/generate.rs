//! Inputs by seed, on any machine: known good ones with some bytes changed, cut, repeated, put together. Not guided by what
//! they reach, which is libFuzzer's part; but the same seed is the same input for ever.

/// SplitMix64: one word of state, good enough to draw inputs with.
pub struct Random(u64);

/// Longer inputs are cut: what a target does with them is rarely more than it does with shorter ones.
const BYTES_MAX: usize = 8 * 1024;

/// Numbers at which things happen.
const EDGES: [u8; 12] = [0, 1, 2, 0x0a, 0x0d, 0x20, 0x3a, 0x7f, 0x80, 0xc0, 0xfe, 0xff];

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// Less than `end`.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// A known input, changed in a few places; rarely anything at all.
    pub fn input(&mut self, known: &[Vec<u8>], words: &[&[u8]]) -> Vec<u8> {
        if known.is_empty() || self.below(16) == 0 {
            let length = self.below(200);
            return (0..length).map(|_| self.next() as u8).collect();
        }
        let mut input = known[self.below(known.len())].clone();
        for _ in 0..=self.below(4) {
            self.change(&mut input, known, words);
        }
        input.truncate(BYTES_MAX);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, known: &[Vec<u8>], words: &[&[u8]]) {
        let at = self.below(input.len() + 1);
        let end = at + self.below((input.len() - at).min(64) + 1);
        match self.below(10) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = EDGES[self.below(EDGES.len())],
            2 if at < input.len() => input[at] = self.next() as u8,
            3 => input.insert(at, EDGES[self.below(EDGES.len())]),
            4 => drop(input.drain(at..end)),
            5 => {
                let again = input[at..end].to_vec();
                input.splice(at..at, again);
            }
            6 if self.below(4) == 0 => input.truncate(at),
            7 => {
                let other = &known[self.below(known.len())];
                let from = self.below(other.len() + 1);
                let to = from + self.below((other.len() - from).min(256) + 1);
                input.splice(at..end, other[from..to].iter().copied());
            }
            _ if !words.is_empty() => {
                let word = words[self.below(words.len())];
                input.splice(at..end.min(at + word.len()), word.iter().copied());
            }
            _ => input.insert(at, self.next() as u8),
        }
    }
}
