//! Replicas that do not agree, over one state: how often they write.

use super::*;
use tempfile::TempDir;

const LIVES: (Duration, Duration) = (Duration::from_secs(3600), Duration::from_secs(60));

struct Replica {
    authority: Arc<Authority>,
    held: Held,
    /// How far its clock is ahead.
    ahead: Duration,
}

impl Replica {
    async fn start(dir: &TempDir, trust_domain: &str, held: Option<Held>, ahead: Duration) -> Self {
        let (trust_domain, now) = (TrustDomain::new(trust_domain).unwrap(), SystemTime::now());
        let held =
            held.unwrap_or_else(|| Held { files: Files::make(&trust_domain, now).unwrap(), force_remove: false });
        let store = Store::file(dir.path().to_owned());
        let opened = Authority::open(Some(&held), &store, &trust_domain, LIVES, now + ahead).await;
        Self { authority: opened.unwrap().with(store), held, ahead }
    }

    /// Takes a turn, and says for how long it takes none then.
    async fn turn(&self, now: SystemTime) -> Duration {
        self.authority.turn(Some(&self.held), now + self.ahead).await.unwrap();
        self.authority.pause()
    }
}

/// Turn and turn about, as each one's write wakes the other, after `quiet` looks: the longest of the last pauses.
async fn quarrel(replicas: &[Replica], quiet: u32) -> Duration {
    let mut now = SystemTime::now();
    for _ in 0..quiet {
        now += Duration::from_secs(15);
        for replica in replicas {
            replica.turn(now).await;
        }
    }
    let mut longest = Duration::ZERO;
    for _ in 0..10 {
        longest = Duration::ZERO;
        for replica in replicas {
            longest = longest.max(replica.turn(now).await);
        }
    }
    longest
}

/// Longer than any pause of those that agree.
const LONG: Duration = Duration::from_secs(5);

#[tokio::test]
async fn replicas_of_two_trust_domains_over_one_state_write_less_and_less_often() {
    let dir = TempDir::new().unwrap();
    let replicas = [
        Replica::start(&dir, "old.example", None, Duration::ZERO).await,
        Replica::start(&dir, "new.example", None, Duration::ZERO).await,
    ];
    let pause = quarrel(&replicas, 0).await;
    assert!(pause > LONG && pause <= replicas[0].authority.next_turn(SystemTime::now()), "{pause:?}");
}

#[tokio::test]
async fn replicas_whose_clocks_are_further_apart_than_the_skew_write_less_and_less_often() {
    let dir = TempDir::new().unwrap();
    let first = Replica::start(&dir, "cluster.local", None, Duration::ZERO).await;
    let second = Replica::start(&dir, "cluster.local", Some(first.held.clone()), Duration::from_secs(600)).await;
    let pause = quarrel(&[first, second], 0).await;
    assert!(pause > LONG, "{pause:?}");
}

#[tokio::test]
async fn processes_with_two_issuers_over_one_state_write_less_and_less_often() {
    let dir = TempDir::new().unwrap();
    let replicas = [
        Replica::start(&dir, "cluster.local", None, Duration::ZERO).await,
        Replica::start(&dir, "cluster.local", None, Duration::ZERO).await,
    ];
    let pause = quarrel(&replicas, 8).await;
    assert!(pause > LONG, "one publishes its anchor, the other takes it away: {pause:?}");
    // Where both anchors are listed they quarrel about who signs.
    let dir = TempDir::new().unwrap();
    let anchors = replicas.iter().flat_map(|replica| replica.held.files.anchors()).copied().collect::<Vec<_>>();
    let mut both = Vec::new();
    for Replica { held, .. } in &replicas {
        let files = Files::new(held.files.certificate().into(), held.files.key().into(), anchors.clone());
        let held = Held { files, force_remove: false };
        both.push(Replica::start(&dir, "cluster.local", Some(held), Duration::ZERO).await);
    }
    let pause = quarrel(&both, 8).await;
    assert!(pause > LONG, "{pause:?}");
}

#[tokio::test]
async fn replicas_that_agree_wait_for_nothing() {
    let dir = TempDir::new().unwrap();
    let first = Replica::start(&dir, "cluster.local", None, Duration::ZERO).await;
    let second = Replica::start(&dir, "cluster.local", Some(first.held.clone()), Duration::from_secs(30)).await;
    let pause = quarrel(&[first, second], 20).await;
    assert!(pause <= crate::limits::WRITE_PAUSE, "{pause:?}");
}
