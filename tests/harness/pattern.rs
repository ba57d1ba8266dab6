//! Bytes that check themselves: a stream of any length that both ends can make from a seed.

/// A stream of bytes, from its beginning on.
///
/// A random block of prime length that repeats: a byte that is lost, doubled or moved shows in the bytes after it.
pub struct Pattern {
    block: Vec<u8>,
    seed: u64,
    at: u64,
}

/// Length of the block: prime, so that no buffer size is a multiple of it.
const BLOCK: usize = 65_521;

impl Pattern {
    /// The stream of this seed.
    pub fn new(seed: u64) -> Pattern {
        let mut dice = fastrand::Rng::with_seed(seed);
        Pattern { block: (0..BLOCK).map(|_| dice.u8(..)).collect(), seed, at: 0 }
    }

    /// What it was made from.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Bytes made or checked so far.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// The next bytes, at most `most`, to be sent; [`Pattern::sent`] moves on.
    pub fn next(&self, most: u64) -> &[u8] {
        let rest = &self.block[self.offset()..];
        &rest[..rest.len().min(usize::try_from(most).unwrap_or(usize::MAX))]
    }

    /// `count` bytes went out.
    pub fn sent(&mut self, count: usize) {
        self.at += count as u64;
    }

    /// Checks what was received and moves on.
    pub fn check(&mut self, mut received: &[u8]) -> Result<(), String> {
        while !received.is_empty() {
            let expected = self.next(received.len() as u64);
            let (now, later) = received.split_at(expected.len());
            if now != expected {
                let wrong = now.iter().zip(expected).take_while(|(byte, right)| byte == right).count();
                return Err(format!("byte {} is wrong", self.at + wrong as u64));
            }
            self.at += now.len() as u64;
            received = later;
        }
        Ok(())
    }

    fn offset(&self) -> usize {
        usize::try_from(self.at % BLOCK as u64).expect("it is less than the block")
    }
}
