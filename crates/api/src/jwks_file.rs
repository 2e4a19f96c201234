//! The file of `auth.jwks_file`: read at the start, where what is wrong with it is told, and again whenever it has
//! changed, where a bad one is logged and kept out.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::jwks::JwkSet;
use crate::token::Claims;

/// A set of a hundred RSA keys of 4,096 bits has 80 KB.
const BYTES_MAX: usize = 1 << 20;
/// A key that was taken out of the file is good for so long at most.
const LOOK_INTERVAL: Duration = Duration::from_secs(3);

/// An issuer's keys, and the file that they come from.
pub struct JwksFile {
    path: PathBuf,
    opened: Seen,
    keys: RwLock<Arc<JwkSet>>,
}

/// What stood in the file, to tell whether it has changed. Its time wouldn't do: of a mounted volume only a link changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Text([u8; 32]),
    Unreadable(io::ErrorKind),
}

impl JwksFile {
    /// Reads it for the first time; blocks.
    ///
    /// # Errors
    /// All that is wrong with it, a sentence each.
    pub fn open(path: PathBuf) -> Result<Self, Vec<String>> {
        let told = |fault| format!("{}: {fault}", path.display());
        let text = read(&path).map_err(|error| vec![told(format!("can't be read: {error}"))])?;
        let keys = JwkSet::parse(&text)
            .map_err(|faults| faults.into_iter().map(told).collect::<Vec<_>>())?;
        Ok(Self {
            path,
            opened: seen(&text),
            keys: RwLock::new(Arc::new(keys)),
        })
    }

    /// The claims of a token that one of the keys vouches for.
    pub(crate) fn verify(&self, token: &str) -> Option<Claims> {
        self.keys().verify(token)
    }

    /// Reads it again whenever it has changed, until `stop`.
    pub(crate) async fn follow(&self, stop: CancellationToken) {
        self.tell(&self.keys());
        let mut last = self.opened;
        let looking = async {
            loop {
                sleep(LOOK_INTERVAL).await;
                let path = self.path.clone();
                let read = spawn_blocking(move || read(&path)).await;
                last = self.take(last, read.unwrap_or_else(|ended| Err(ended.into())));
            }
        };
        stop.run_until_cancelled(looking).await;
    }

    /// Takes what was read in the keys' place, if it is new and good; each state is told once.
    fn take(&self, last: Seen, read: io::Result<Vec<u8>>) -> Seen {
        const KEPT: &str = "auth.jwks_file can't be used; the keys read before it stay";
        let now = match &read {
            Ok(text) => seen(text),
            Err(error) => Seen::Unreadable(error.kind()),
        };
        if now == last {
            return now;
        }
        let path = self.path.display();
        match read.map(|text| JwkSet::parse(&text)) {
            Ok(Ok(keys)) => {
                self.tell(&keys);
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
            }
            Ok(Err(faults)) => tracing::error!(%path, faults = faults.join("; "), "{KEPT}"),
            Err(error) => tracing::error!(%path, %error, "{KEPT}"),
        }
        now
    }

    fn tell(&self, keys: &JwkSet) {
        tracing::info!(
            path = %self.path.display(),
            keys = keys.keys.len(),
            left_aside = keys.left_aside,
            "tokens signed with auth.jwks_file's keys are good"
        );
    }

    fn keys(&self) -> Arc<JwkSet> {
        // It is only ever replaced; a panic leaves it whole.
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&keys)
    }
}

impl fmt::Debug for JwksFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwksFile")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let limit = u64::try_from(BYTES_MAX).unwrap_or(u64::MAX);
    File::open(path)?
        .take(limit.saturating_add(1))
        .read_to_end(&mut text)?;
    if text.len() > BYTES_MAX {
        let detail = format!("it has more than {BYTES_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, detail));
    }
    Ok(text)
}

fn seen(text: &[u8]) -> Seen {
    Seen::Text(Sha256::digest(text).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jwks::tests::{ED25519, claims, ed25519_token, one};

    fn opened(text: &str) -> (tempfile::NamedTempFile, Result<JwksFile, Vec<String>>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let opened = JwksFile::open(file.path().to_owned());
        (file, opened)
    }

    #[test]
    fn a_file_that_cannot_be_used_is_told_with_its_path_and_keys() {
        let (file, refused) = opened(r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a"},{}]}"#);

        let path = file.path().display();
        let faults = refused.unwrap_err();
        assert_eq!(faults[0], format!("{path}: key 1: \"a\" lacks x"));
        assert!(faults[1].starts_with(&format!("{path}: key 2: missing field `kty`")));

        let (_file, refused) = opened(&" ".repeat(BYTES_MAX + 1));
        assert!(refused.unwrap_err()[0].ends_with("can't be read: it has more than 1048576 bytes"));
        let nowhere = JwksFile::open("/nowhere.json".into()).unwrap_err();
        assert!(nowhere[0].starts_with("/nowhere.json: can't be read"));
    }

    #[test]
    fn a_good_change_is_taken_and_a_bad_one_kept_out() {
        let other = r#"{"kty":"OKP","crv":"Ed25519","kid":"ed","x":"PUAXw-hDiVqStwqnTRt-vJyYLM8uxJaMwM1V8Sr0Zgw"}"#;
        let (file, opened) = opened(&one(ED25519));
        let jwks = opened.unwrap();
        let token = ed25519_token(&claims());
        let look = |last| jwks.take(last, read(file.path()));
        assert!(jwks.verify(&token).is_some());

        std::fs::write(file.path(), r#"{"keys":["#).unwrap();
        let broken = look(jwks.opened);
        assert!(jwks.verify(&token).is_some());
        std::fs::write(file.path(), one(other)).unwrap();
        let changed = look(broken);
        assert!(jwks.verify(&token).is_none());
        std::fs::write(file.path(), one(ED25519)).unwrap();
        let back = look(changed);
        assert!(jwks.verify(&token).is_some());
        std::fs::remove_file(file.path()).unwrap();

        assert_eq!(look(back), Seen::Unreadable(io::ErrorKind::NotFound));
        assert!(jwks.verify(&token).is_some());
    }
}
