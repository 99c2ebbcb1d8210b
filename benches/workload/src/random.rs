//! Numbers and texts that are the same in every run.

/// SplitMix64: the same numbers in every run.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// Any number.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number less than `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// A position in something of `len` elements.
    pub fn pick(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).expect("less than len")
    }

    /// Puts elements into any order.
    pub fn shuffle<T>(&mut self, elements: &mut [T]) {
        for end in (1..elements.len()).rev() {
            elements.swap(end, self.pick(end + 1));
        }
    }

    /// Something like a SHA-256.
    pub fn digest(&mut self) -> [u8; 32] {
        let mut digest = [0; 32];
        for bytes in digest.chunks_exact_mut(8) {
            bytes.copy_from_slice(&self.next().to_le_bytes());
        }
        digest
    }
}

/// Bytes that compress like a program.
pub fn source_code(random: &mut Random, length: usize) -> Vec<u8> {
    const WORDS: [&str; 24] = [
        "def ", "return ", "self.", "import ", "if ", "else:", "for ", "in ", "not ", "None", "class ", "(",
        ")", " = ", ":\n    ", "\n\n", ", ", "value", "index", "name", "request", "_config", "result",
        "\"\"\"",
    ];
    let mut text = Vec::new();
    while text.len() < length {
        text.extend_from_slice(WORDS[random.pick(WORDS.len())].as_bytes());
        if random.below(4) == 0 {
            text.extend_from_slice(format!("{:x}", random.below(1 << 16)).as_bytes());
        }
    }
    text.truncate(length);
    text
}
