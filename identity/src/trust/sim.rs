//! Any order of writes, restarts and outages, by chance: several replicas over one store, each step and each write apart from the other.
//!
//! What must hold at any moment: every live leaf chains to an anchor that every running replica publishes, and none was signed
//! under an anchor that was published for less than [`Rules::publish`].

use super::{tests::offer, *};

const RULES: Rules = Rules { lifetime: Duration::from_secs(40), skew: Duration::from_secs(2) };
const TICK: Duration = Duration::from_millis(250);
const REPLICAS: usize = 3;

/// Xorshift: a run is its seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

#[derive(Default)]
struct Replica {
    /// What it saw last; none while it does not run.
    local: Option<Record>,
    /// Since when it runs, whether or not it has looked.
    running: bool,
    looked: Option<SystemTime>,
    /// What it is about to write, by what it has read.
    writing: Option<(u64, Record, bool)>,
}

struct World {
    now: SystemTime,
    offered: Offer,
    roots: u8,
    stored: Option<Record>,
    /// Counts what was stored: the API server's resource version.
    version: u64,
    away: bool,
    replicas: [Replica; REPLICAS],
    /// The end of the last leaf of each anchor.
    leaves: Vec<(Vec<u8>, SystemTime)>,
    /// When each anchor was first published by every replica that ran.
    published: Vec<(Vec<u8>, SystemTime)>,
    signed: u64,
    promoted: u64,
}

impl World {
    fn new() -> Self {
        Self {
            now: UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            offered: offer(1, 1, &[1]),
            roots: 1,
            stored: None,
            version: 0,
            away: false,
            replicas: Default::default(),
            leaves: Vec::new(),
            published: Vec::new(),
            signed: 0,
            promoted: 0,
        }
    }

    /// Reads, and decides.
    fn look(&mut self, index: usize) {
        let replica = &mut self.replicas[index];
        replica.looked = Some(self.now);
        if self.away {
            return;
        }
        let known = reconcile(self.stored.clone(), replica.local.as_ref());
        let stepped = step(known, Some(&self.offered), "td", self.now, RULES);
        let record = stepped.record.unwrap();
        if stepped.write {
            replica.writing = Some((self.version, record, true));
        } else {
            replica.local = Some(record);
        }
    }

    /// Its decision is stored, unless another replica was faster.
    fn write(&mut self, index: usize) {
        let Some((version, record, _)) = self.replicas[index].writing.take() else { return };
        if self.away || version != self.version {
            // It will look again at once.
            self.replicas[index].looked = None;
            return;
        }
        if self.stored.as_ref().is_some_and(|stored| stored.issuer != record.issuer) {
            self.promoted += 1;
        }
        self.version += 1;
        self.stored = Some(record.clone());
        self.replicas[index].local = Some(record);
    }

    fn sign(&mut self, index: usize) {
        let replica = &self.replicas[index];
        let Some(record) = &replica.local else { return };
        // As `Authority::issuer` has it: one that has not looked for a while does not sign.
        if replica.looked.is_none_or(|at| self.now.duration_since(at).unwrap() > RULES.publish()) {
            return;
        }
        let anchor = record.issuer.anchor.clone();
        let first = self.published.iter().find(|(known, _)| *known == anchor).map(|(_, at)| *at).unwrap();
        let start = self.published.first().map(|(_, at)| *at).unwrap();
        assert!(
            first == start || self.now.duration_since(first).unwrap() >= RULES.publish(),
            "signed under an anchor that was published {:?} ago",
            self.now.duration_since(first)
        );
        let end = self.now + RULES.lifetime;
        match self.leaves.iter_mut().find(|(known, _)| *known == anchor) {
            Some((_, last)) => *last = end,
            None => self.leaves.push((anchor, end)),
        }
        self.signed += 1;
    }

    fn check(&mut self) {
        let now = self.now;
        self.leaves.retain(|(_, end)| *end > now);
        for replica in &self.replicas {
            let Some(record) = &replica.local else { continue };
            for known in &record.anchors {
                if !self.published.iter().any(|(der, _)| *der == known.der) {
                    self.published.push((known.der.clone(), now));
                }
            }
            for (anchor, end) in &self.leaves {
                assert!(
                    record.anchor(anchor).is_some(),
                    "a leaf that lives for {:?} chains to an anchor that a replica does not publish",
                    end.duration_since(now)
                );
            }
        }
    }

    fn turn(&mut self, chance: &mut Chance) {
        self.now += TICK;
        if chance.one_in(100) {
            self.roots = self.roots.wrapping_add(1).max(1);
            // In one write, or in steps, or back to an earlier one.
            let listed = match chance.below(3) {
                0 => vec![self.roots],
                1 => vec![self.roots, self.roots.wrapping_sub(1).max(1)],
                _ => vec![self.roots.wrapping_sub(3).max(1)],
            };
            self.offered = offer(self.roots, listed[0], &listed);
        }
        // Shorter and longer than a life.
        if chance.one_in(if self.away { 120 } else { 900 }) {
            self.away = !self.away;
        }
        for index in 0..REPLICAS {
            if chance.one_in(if self.replicas[index].running { 300 } else { 40 }) {
                let running = !self.replicas[index].running;
                self.replicas[index] = Replica { running, ..Replica::default() };
            }
            let replica = &self.replicas[index];
            if !replica.running {
                continue;
            }
            // Writes take a while, in which others may do anything; a look is due at last.
            if replica.writing.is_some() && chance.one_in(2) {
                self.write(index);
            } else if replica.writing.is_none() {
                let due = replica.looked.is_none_or(|at| self.now.duration_since(at).unwrap() >= RULES.look_every());
                if due || chance.one_in(8) {
                    self.look(index);
                }
            }
            self.check();
            if chance.one_in(4) {
                self.sign(index);
            }
        }
        self.check();
    }
}

#[test]
fn in_any_order_of_writes_restarts_and_outages_every_live_leaf_is_trusted_by_all() {
    let (mut signed, mut promoted) = (0, 0);
    for seed in 1..=40_u64 {
        let (mut world, mut chance) = (World::new(), Chance(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        for _ in 0..6_000 {
            world.turn(&mut chance);
        }
        signed += world.signed;
        promoted += world.promoted;
    }
    assert!(signed > 50_000 && promoted > 300, "too little happened: {signed} leaves, {promoted} new issuers");
}

#[test]
fn the_simulation_sees_a_rule_that_is_broken() {
    // An anchor that goes as soon as it is not listed: what the simulation is for.
    let broken = std::panic::catch_unwind(|| {
        let (mut world, mut chance) = (World::new(), Chance(7));
        for _ in 0..8_000 {
            world.turn(&mut chance);
            for replica in &mut world.replicas {
                if let Some(record) = &mut replica.local {
                    let (signing, offered) = (record.issuer.anchor.clone(), &world.offered);
                    record.anchors.retain(|known| known.der == signing || offered.anchors.contains(&known.der));
                }
            }
        }
    });
    assert!(broken.is_err());
}
