//! Secrets at rest: AES-256-GCM, each value bound to its environment, subscription and column, so that one moved to
//! another row can't be opened.
//!
//! A sealed value is: version 1 (one byte), key id (the first 4 bytes of the key's SHA-256), nonce (12, random),
//! ciphertext and tag. Random nonces are good for 2^32 values per key; a subscription writes a handful in its life.

use std::fmt;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};

const VERSION: u8 = 1;
const KEY_ID_LEN: usize = 4;
const HEAD_LEN: usize = 1 + KEY_ID_LEN + NONCE_LEN;

/// The keys of `secrets.keys`: the first seals, all open.
pub struct Keyring {
    keys: Vec<Key>,
    random: SystemRandom,
}

struct Key {
    id: [u8; KEY_ID_LEN],
    cipher: LessSafeKey,
}

/// Why a value can't be sealed or opened. None of them shows any of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// A keyring of no keys.
    #[error("at least one key is needed")]
    NoKeys,
    /// The system has no random numbers.
    #[error("no random numbers")]
    NoRandom,
    /// Not a sealed value, or of a later version.
    #[error("not a sealed value of a known version")]
    Malformed,
    /// None of the keys is the one that sealed it.
    #[error("the key that sealed it is not among secrets.keys")]
    KeyMissing,
    /// It was changed, or belongs to another row.
    #[error("it was tampered with or belongs elsewhere")]
    Tampered,
}

/// Where a sealed value belongs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) environment_id: &'a str,
    pub(crate) webhook_id: &'a str,
    pub(crate) column: &'static str,
}

impl Place<'_> {
    fn aad(&self) -> Aad<Vec<u8>> {
        // None of the parts can hold a zero byte: Postgres text can't.
        let parts = [self.environment_id, self.webhook_id, self.column];
        Aad::from(parts.join("\0").into_bytes())
    }
}

impl Keyring {
    /// For what neither seals nor opens: migrations and checks.
    pub fn without_keys() -> Self {
        Self {
            keys: Vec::new(),
            random: SystemRandom::new(),
        }
    }

    /// A keyring of at least one key.
    ///
    /// # Errors
    /// `NoKeys`.
    pub fn new(keys: Vec<[u8; 32]>) -> Result<Self, SealError> {
        if keys.is_empty() {
            return Err(SealError::NoKeys);
        }
        let keys = keys
            .iter()
            .map(|key| Key {
                id: Sha256::digest(key)[..KEY_ID_LEN]
                    .try_into()
                    .expect("a digest is longer than a key id"),
                cipher: LessSafeKey::new(
                    UnboundKey::new(&AES_256_GCM, key).expect("32 bytes are an AES-256 key"),
                ),
            })
            .collect();
        Ok(Self {
            keys,
            random: SystemRandom::new(),
        })
    }

    /// Whether one of the keys has that id.
    pub(crate) fn has(&self, id: &[u8]) -> bool {
        self.keys.iter().any(|key| key.id == id)
    }

    /// The id of the key that seals, if there is one.
    pub(crate) fn first_id(&self) -> Option<&[u8]> {
        self.keys.first().map(|key| key.id.as_slice())
    }

    /// Seals a value for its place, with the first key.
    pub(crate) fn seal(&self, place: Place<'_>, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let key = self.keys.first().ok_or(SealError::NoKeys)?;
        let mut nonce = [0; NONCE_LEN];
        self.random
            .fill(&mut nonce)
            .map_err(|_| SealError::NoRandom)?;

        let mut sealed = Vec::with_capacity(HEAD_LEN + plain.len() + AES_256_GCM.tag_len());
        sealed.push(VERSION);
        sealed.extend_from_slice(&key.id);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plain);
        let tag = key
            .cipher
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                place.aad(),
                &mut sealed[HEAD_LEN..],
            )
            .map_err(|_| SealError::Malformed)?;
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    /// Opens a value of that place, with whichever key sealed it.
    pub(crate) fn open(&self, place: Place<'_>, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let (head, rest) = sealed
            .split_at_checked(HEAD_LEN)
            .ok_or(SealError::Malformed)?;
        let (version, id, nonce) = (head[0], &head[1..=KEY_ID_LEN], &head[1 + KEY_ID_LEN..]);
        if version != VERSION {
            return Err(SealError::Malformed);
        }
        let nonce: [u8; NONCE_LEN] = nonce.try_into().map_err(|_| SealError::Malformed)?;

        // Two keys may share an id, however unlikely: each of them is tried.
        let mut found = false;
        for key in self.keys.iter().filter(|key| key.id == id) {
            found = true;
            let mut bytes = rest.to_vec();
            let nonce = Nonce::assume_unique_for_key(nonce);
            if let Ok(plain) = key.cipher.open_in_place(nonce, place.aad(), &mut bytes) {
                return Ok(plain.to_vec());
            }
        }
        Err(if found {
            SealError::Tampered
        } else {
            SealError::KeyMissing
        })
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring({} keys)", self.keys.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Place<'static> = Place {
        environment_id: "env-1",
        webhook_id: "2nBrJUjz",
        column: "secret",
    };

    fn keyring(keys: &[u8]) -> Keyring {
        Keyring::new(keys.iter().map(|key| [*key; 32]).collect()).unwrap()
    }

    #[test]
    fn what_was_sealed_opens_in_its_place() {
        let keys = keyring(&[1]);

        let sealed = keys.seal(HERE, b"whisper").unwrap();

        assert_eq!(keys.open(HERE, &sealed).unwrap(), b"whisper");
        assert!(!sealed.windows(7).any(|window| window == b"whisper"));
    }

    #[test]
    fn the_same_value_is_never_sealed_alike() {
        let keys = keyring(&[1]);

        assert_ne!(
            keys.seal(HERE, b"whisper").unwrap(),
            keys.seal(HERE, b"whisper").unwrap()
        );
    }

    #[test]
    fn a_value_moved_to_another_row_or_column_does_not_open() {
        let keys = keyring(&[1]);
        let sealed = keys.seal(HERE, b"whisper").unwrap();

        let elsewhere = [
            Place {
                environment_id: "env-2",
                ..HERE
            },
            Place {
                webhook_id: "other",
                ..HERE
            },
            Place {
                column: "headers",
                ..HERE
            },
        ];
        for place in elsewhere {
            assert_eq!(keys.open(place, &sealed), Err(SealError::Tampered));
        }
    }

    #[test]
    fn any_changed_bit_is_noticed() {
        let keys = keyring(&[1]);
        let sealed = keys.seal(HERE, b"whisper").unwrap();

        for position in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[position] ^= 1;
            assert!(
                keys.open(HERE, &changed).is_err(),
                "byte {position} was changed unnoticed"
            );
        }
        for length in 0..sealed.len() {
            assert!(keys.open(HERE, &sealed[..length]).is_err());
        }
    }

    #[test]
    fn an_older_key_still_opens_and_the_first_seals() {
        let sealed = keyring(&[1]).seal(HERE, b"whisper").unwrap();

        let rotated = keyring(&[2, 1]);

        assert_eq!(rotated.open(HERE, &sealed).unwrap(), b"whisper");
        let sealed_anew = rotated.seal(HERE, b"whisper").unwrap();
        assert_eq!(keyring(&[2]).open(HERE, &sealed_anew).unwrap(), b"whisper");
        assert_eq!(
            keyring(&[3]).open(HERE, &sealed),
            Err(SealError::KeyMissing)
        );
    }

    #[test]
    fn a_keyring_needs_a_key_and_shows_none() {
        assert_eq!(Keyring::new(Vec::new()).unwrap_err(), SealError::NoKeys);
        assert_eq!(format!("{:?}", keyring(&[7])), "Keyring(1 keys)");
    }
}
