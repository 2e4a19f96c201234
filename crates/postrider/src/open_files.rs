//! The limit on open files: raised as far as the system permits, since many systems begin with 1,024, which a worker
//! with a thousand attempts at a time needs several times over. Reaching it costs attempts, and loses nothing.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard one, and warns where that is below what is `needed`.
pub(crate) fn raise(needed: u64) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    let limit = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(_) => current,
    };
    if let Some(limit) = limit.filter(|limit| *limit < needed) {
        tracing::warn!(
            limit,
            needed,
            "fewer files may be open than delivery.in_flight_max needs: attempts will fail as connect; raise the hard \
             limit (LimitNOFILE, ulimit -Hn) or lower delivery.in_flight_max"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one() {
        let before = getrlimit(Resource::Nofile);
        let lowered = Rlimit {
            current: Some(100),
            ..before
        };
        setrlimit(Resource::Nofile, lowered).unwrap();

        raise(u64::MAX);

        assert_eq!(getrlimit(Resource::Nofile).current, before.maximum);
    }
}
