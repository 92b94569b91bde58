use super::*;
use crate::{
    config,
    http::outbound::branch,
    resources::Resources,
    telemetry::{Journal, Reason, Routes},
};
use remora_model::{
    Backend, BackendId, BackendSettings, Inbound, InboundDefault, MtlsMode, Outbound, Parent, Protocol, Target,
    TrustDomain, UnknownTargets,
};
use std::{cell::RefCell, collections::HashMap, rc::Rc};

/// Plays the control thread: answers what it was told to, and holds the rest open.
pub(super) struct Control {
    pub(super) answers: HashMap<Name, State>,
    /// Everything else is answered so.
    otherwise: State,
    pub(super) held: HashMap<Name, watch::Sender<State>>,
    unwatched: Vec<Name>,
    watched: usize,
    pub(super) doubted: Vec<Name>,
    pub(super) full: bool,
    /// There is no room for backends.
    full_of_backends: bool,
}

pub(super) type Shared = Rc<RefCell<Control>>;

impl Control {
    fn new() -> Shared {
        Rc::new(RefCell::new(Self {
            answers: HashMap::new(),
            otherwise: State::Silent,
            held: HashMap::new(),
            unwatched: Vec::new(),
            watched: 0,
            doubted: Vec::new(),
            full: false,
            full_of_backends: false,
        }))
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Watch(_, tell) if self.full => drop(tell.send(Err(Full))),
            Command::Watch(Name::Backend(_), tell) if self.full_of_backends => drop(tell.send(Err(Full))),
            Command::Watch(name, tell) => {
                self.watched += 1;
                let otherwise = &self.otherwise;
                let answer = self.answers.entry(name.clone()).or_insert_with(|| otherwise.clone()).clone();
                let held = self.held.entry(name).or_insert_with(|| watch::Sender::new(answer));
                drop(tell.send(Ok(held.subscribe())));
            }
            Command::Unwatch(name) => self.unwatched.push(name),
            Command::Doubt(name) => self.doubted.push(name),
        }
    }

    pub(super) fn say(&mut self, resource: Resource) {
        let (name, state) = (resource.name(), State::Held(Arc::new(resource)));
        self.answers.insert(name.clone(), state.clone());
        if let Some(held) = self.held.get(&name) {
            held.send_replace(state);
        }
    }
}

pub(super) struct World {
    pub(super) directory: Rc<Directory>,
    pub(super) control: Shared,
    link: watch::Sender<Link>,
    wanted: Wanted,
    pub(super) zone: Zone,
    pub(super) settings: watch::Sender<InForce>,
    _networks: watch::Sender<Networks>,
}

/// A directory on a running control thread.
pub(super) fn world(change: impl FnOnce(&mut config::Config)) -> World {
    let mut config = config::tests::least();
    config.workers = 1;
    change(&mut config);
    let (handle, ends) = Handle::new(Duration::ZERO, config.networks.clone(), config.settings());
    let Ends { mut commands, link, networks, wanted, settings, .. } = ends;
    let zone = handle.zone.clone();
    link.send_replace(Link::Open);
    let control = Control::new();
    let played = control.clone();
    tokio::task::spawn_local(async move {
        while let Some(command) = commands.recv().await {
            played.borrow_mut().take(command);
        }
    });
    let routes = Routes::new("shop/web-1".into());
    let directory = Rc::new(Directory::new(handle, Resources::of_tests(config), branch, Journal::new(&routes)));
    World { directory, control, link, wanted, zone, settings, _networks: networks }
}

pub(super) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

/// Lets other tasks run until `done`.
pub(super) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if done() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("never: {what}");
}

pub(super) fn address(number: usize) -> Target {
    let [.., high, low] = u32::try_from(number).unwrap().to_be_bytes();
    Target::Address(([10, 96, high, low], 80).into())
}

pub(super) fn id(name: &str) -> BackendId {
    BackendId::service("shop", name, 80)
}

pub(super) fn outbound(target: &Target, parent: Parent) -> Resource {
    Resource::Outbound(Outbound::bare(target.clone(), parent))
}

fn backend(name: &str) -> Resource {
    let (settings, endpoints) = (BackendSettings::default(), Vec::new());
    Resource::Backend(Backend { id: id(name), protocol: Protocol::Detect, settings, endpoints })
}

pub(super) fn inbound(port: u16, parent: &str) -> Inbound {
    Inbound {
        port,
        parent: parent.into(),
        protocol: Protocol::Detect,
        mtls: MtlsMode::Strict,
        rules: Vec::new(),
        default_deny: false,
        dry_run: Default::default(),
        ending: false,
        trust_domain: TrustDomain::new("cluster.local").unwrap(),
    }
}

pub(super) fn default(declared: &[u16]) -> Resource {
    Resource::InboundDefault(InboundDefault { inbound: inbound(0, "shop/web-1:*"), declared: declared.to_vec() })
}

#[test]
fn a_late_answer_is_taken_up_by_all_who_wait_with_one_subscription() {
    run(async {
        let World { directory, control, .. } = world(|_| {});
        let target = address(1);
        let route = async || directory.route(&target).await;
        let late = async {
            until("both wait", || control.borrow().watched > 0).await;
            control.borrow_mut().say(backend("api"));
            control.borrow_mut().say(outbound(&target, Parent::Backend(id("api"))));
        };
        let (one, two, ()) = tokio::join!(route(), route(), late);
        let plans = [one, two].map(|route| match route {
            Ok((_, Way::Mesh(plan))) => plan,
            other => panic!("{other:?}"),
        });
        assert!(Rc::ptr_eq(&plans[0], &plans[1]));
        assert_eq!(control.borrow().watched, 2, "the target and its backend");
        assert!(directory.known(&target).is_some(), "and nobody waits any more");
    });
}

#[test]
fn silence_is_refused_in_time_and_not_remembered() {
    run(async {
        let World { directory, control, .. } = world(|_| {});
        let (target, began) = (address(1), Instant::now());
        let refusal = directory.route(&target).await.expect_err("nobody answers");
        assert_eq!(refusal.reason, Reason::DiscoverySilent);
        assert!(began.elapsed() >= limits::DISCOVERY_WAIT && refusal.detail.contains("10.96.0.1:80"), "{refusal:?}");
        control.borrow_mut().say(outbound(&target, Parent::Outside));
        until("the answer is known", || directory.known(&target).is_some()).await;
    });
}

#[test]
fn every_answer_has_its_reason() {
    run(async {
        let World { directory, control, .. } = world(|config| {
            config.networks = Networks::new(vec!["10.96.0.0/16".parse().unwrap()]);
        });
        let foreign: Target = "203.0.113.1:80".parse().unwrap();
        control.borrow_mut().say(outbound(&address(1), Parent::Unknown));
        control.borrow_mut().say(outbound(&foreign, Parent::Unknown));
        let unusable = State::Unusable("outbound 10.96.0.2:80: rules[0]".into());
        control.borrow_mut().answers.insert(Name::Outbound(address(2)), unusable);
        let reason = async |target| directory.route(&target).await.map_err(|refusal| refusal.reason);
        assert_eq!(reason(address(1)).await.err(), Some(Reason::UnknownTarget));
        assert_eq!(reason(address(2)).await.err(), Some(Reason::UnusableConfig));
        let found = reason(foreign.clone()).await.err();
        assert_eq!(
            found,
            Some(Reason::UnknownTarget),
            "discovery holds it to be the cluster's, whatever our ranges are"
        );
        control.borrow_mut().say(outbound(&foreign, Parent::Outside));
        until("it is passed", || matches!(directory.known(&foreign), Some((_, Way::Pass)))).await;
        control.borrow_mut().full = true;
        assert_eq!(reason(address(3)).await.err(), Some(Reason::Overloaded));

        let World { directory, control, .. } = world(|config| {
            config.networks = Networks::new(vec!["10.96.0.0/16".parse().unwrap()]);
            config.unknown = UnknownTargets::Deny;
        });
        control.borrow_mut().say(outbound(&foreign, Parent::Outside));
        let refusal = directory.route(&foreign).await.expect_err("denied");
        assert_eq!(refusal.reason, Reason::UnknownTarget);
        assert!(directory.known(&foreign).is_none());
    });
}

#[test]
fn no_more_wait_than_may_and_the_next_hears_so_at_once() {
    run(async {
        let World { directory, .. } = world(|_| {});
        let (waiting, begun) = (Rc::new(tokio::sync::Notify::new()), Rc::new(std::cell::Cell::new(0)));
        for _ in 0..limits::WAITING_OUTBOUND_MAX {
            let (directory, left, begun) = (directory.clone(), waiting.clone(), begun.clone());
            tokio::task::spawn_local(async move {
                begun.set(begun.get() + 1);
                let target = address(1);
                tokio::select! {
                    _ = directory.route(&target) => panic!("nobody answers"),
                    () = left.notified() => {}
                }
            });
        }
        until("all wait", || begun.get() == limits::WAITING_OUTBOUND_MAX).await;
        let refusal = directory.route(&address(1)).await.expect_err("all places are taken");
        assert_eq!(refusal.reason, Reason::Overloaded);
        waiting.notify_waiters();
    });
}

#[test]
fn what_makes_room_is_the_longest_unused_and_never_in_use() {
    run(async {
        let World { directory, control, link, .. } = world(|_| {});
        control.borrow_mut().say(backend("api"));
        let meet = async |number| {
            control.borrow_mut().say(outbound(&address(number), Parent::Backend(id("api"))));
            directory.route(&address(number)).await
        };
        let mut used = None;
        for number in 0..limits::TARGETS_MAX {
            let (route, _) = meet(number).await.expect("there is room");
            used.get_or_insert(route);
        }
        assert!(directory.known(&address(1)).is_some(), "used again");
        link.send_replace(Link::Lost);
        let refusal = meet(limits::TARGETS_MAX).await.expect_err("none can be had again while discovery is away");
        assert_eq!(refusal.reason, Reason::Overloaded);
        for number in 0..limits::TARGETS_MAX {
            assert!(directory.known(&address(number)).is_some(), "{number} is still known");
        }
        link.send_replace(Link::Open);
        assert!(directory.known(&address(1)).is_some(), "used last");
        meet(limits::TARGETS_MAX).await.expect("there is room again");
        for number in 0..=limits::TARGETS_MAX {
            // 0 is in use, 1 was used last.
            let gone = (2..2 + limits::EVICTED_AT_ONCE).contains(&number);
            assert_eq!(directory.is_in_table(&address(number)), !gone, "{number}");
        }
        until("they are unsubscribed", || control.borrow().unwatched.len() == limits::EVICTED_AT_ONCE).await;
        for name in control.borrow().unwatched.iter() {
            assert_eq!(control.borrow().held[name].receiver_count(), 0, "nobody reads {name} any more");
        }
        let (_, way) = directory.route(&address(2)).await.expect("asked for again");
        assert!(matches!(way, Way::Mesh(_)), "what was known is never unknown");
    });
}

#[test]
fn one_worker_of_many_may_use_all_that_there_is_and_keeps_its_share_of_what_nobody_uses() {
    run(async {
        let World { directory, control, .. } = world(|config| config.workers = 4);
        let mut used = Vec::new();
        for number in 0..limits::TARGETS_MAX {
            control.borrow_mut().say(outbound(&address(number), Parent::Outside));
            used.push(directory.route(&address(number)).await.expect("there is room for what is in use"));
        }
        let refusal = directory.route(&address(limits::TARGETS_MAX)).await.expect_err("there is no more");
        assert_eq!(refusal.reason, Reason::Overloaded);
        used.clear();
        for number in limits::TARGETS_MAX..2 * limits::TARGETS_MAX {
            control.borrow_mut().say(outbound(&address(number), Parent::Outside));
            directory.route(&address(number)).await.expect("room is made");
        }
        let kept = (0..2 * limits::TARGETS_MAX).filter(|number| directory.is_in_table(&address(*number))).count();
        assert!(kept <= limits::TARGETS_MAX / 4, "{kept}");
    });
}

#[test]
fn a_target_without_an_answer_makes_room_even_while_discovery_is_away() {
    run(async {
        let World { directory, control, link, .. } = world(|_| {});
        link.send_replace(Link::Lost);
        for number in 0..2 * limits::TARGETS_MAX {
            let (directory, asks) = (directory.clone(), address(number));
            // Asked for, and left.
            tokio::select! {
                biased;
                _ = directory.route(&asks) => panic!("nobody answers"),
                () = tokio::task::yield_now() => {}
            }
        }
        assert!(control.borrow().held.values().filter(|held| held.receiver_count() > 0).count() <= limits::TARGETS_MAX);
    });
}

#[test]
fn a_pool_that_no_plan_uses_gives_up_its_subscription() {
    run(async {
        let World { directory, control, .. } = world(|_| {});
        let target = address(1);
        control.borrow_mut().say(backend("old"));
        control.borrow_mut().say(backend("new"));
        control.borrow_mut().say(outbound(&target, Parent::Backend(id("old"))));
        let (route, way) = directory.route(&target).await.unwrap();
        drop(way);
        control.borrow_mut().say(outbound(&target, Parent::Backend(id("new"))));
        until("the new plan is in use", || route.plan().is_some_and(|plan| plan.parent.id == id("new"))).await;
        until("the old one is given up", || control.borrow().unwatched == [Name::Backend(id("old"))]).await;
        assert_eq!(control.borrow().held[&Name::Backend(id("old"))].receiver_count(), 0);
        assert_eq!(control.borrow().held[&Name::Backend(id("new"))].receiver_count(), 1);
    });
}

#[test]
fn a_backend_of_which_nothing_is_known_says_why() {
    run(async {
        let World { directory, control, .. } = world(|_| {});
        let unusable = State::Unusable("backend shop/bad:80: protocol".into());
        control.borrow_mut().answers.insert(Name::Backend(id("bad")), unusable);
        control.borrow_mut().say(backend("empty"));
        for (name, reason) in
            [("bad", Reason::UnusableConfig), ("lost", Reason::DiscoverySilent), ("empty", Reason::NoEndpoints)]
        {
            let target: Target = format!("{name}:80").parse().unwrap();
            control.borrow_mut().say(outbound(&target, Parent::Backend(id(name))));
            let Ok((_, Way::Mesh(plan))) = directory.route(&target).await else { panic!("{name}") };
            let picked = plan.parent.pick(Instant::now(), &mut fastrand::Rng::new(), &[], None);
            assert_eq!(picked.err(), Some(reason), "{name}");
        }
    });
}

#[test]
fn a_backend_that_there_was_no_room_for_is_asked_for_until_there_is() {
    run(async {
        let World { directory, control, .. } = world(|_| {});
        let target = address(1);
        control.borrow_mut().full_of_backends = true;
        control.borrow_mut().say(backend("api"));
        control.borrow_mut().say(outbound(&target, Parent::Backend(id("api"))));
        let Ok((_, Way::Mesh(plan))) = directory.route(&target).await else { panic!("a plan") };
        let why = || plan.parent.pick(Instant::now(), &mut fastrand::Rng::new(), &[], None).err();
        assert_eq!(why(), Some(Reason::Overloaded));
        control.borrow_mut().full_of_backends = false;
        let watches = async {
            while control.borrow().held.get(&Name::Backend(id("api"))).is_none_or(|held| held.receiver_count() == 0) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(2 * limits::DISCOVERY_TIMEOUT, watches).await.expect("asked for again");
        until("it is known", || why() == Some(Reason::NoEndpoints)).await;
    });
}

#[test]
fn a_backend_of_which_nothing_usable_is_known_is_asked_for_whenever_it_is_met_but_not_for_each_request() {
    run(async {
        let World { directory, control, .. } = world(|_| {});
        let unusable = State::Unusable("backend shop/bad:80: protocol".into());
        control.borrow_mut().answers.insert(Name::Backend(id("bad")), unusable);
        control.borrow_mut().say(backend("empty"));
        for (name, asks) in [("bad", 3), ("silent", 3 + 1), ("empty", 0)] {
            let target: Target = format!("{name}:80").parse().unwrap();
            control.borrow_mut().say(outbound(&target, Parent::Backend(id(name))));
            let Ok((_, Way::Mesh(plan))) = directory.route(&target).await else { panic!("{name}") };
            let met = Instant::now();
            for second in 0..3 {
                for _ in 0..1000 {
                    let picked =
                        plan.parent.pick(met + second * limits::DOUBT_MIN, &mut fastrand::Rng::new(), &[], None);
                    assert!(picked.is_err());
                }
            }
            let asked = || control.borrow().doubted.iter().filter(|of| **of == Name::Backend(id(name))).count();
            until("discovery was asked", || asked() == asks).await;
        }
    });
}

#[test]
fn while_the_process_starts_nothing_is_refused() {
    run(async {
        let resources = Resources::of_tests(config::tests::least());
        let (handle, ends) =
            Handle::new(limits::START_PATIENCE, Networks::default(), config::tests::least().settings());
        let Ends { mut commands, link, networks: _networks, .. } = ends;
        let directory = Directory::new(handle, resources, branch, Journal::new(&Routes::new("shop/web-1".into())));
        let target = address(1);
        let control = Control::new();
        control.borrow_mut().say(outbound(&target, Parent::Outside));
        let answers = async {
            // As long as nobody could answer, nobody is judged for silence.
            let longer = limits::UNKNOWN_TARGET_WAIT;
            assert!(tokio::time::timeout(longer, std::future::pending::<()>()).await.is_err());
            link.send_replace(Link::Open);
            let command = commands.recv().await.expect("a subscription");
            control.borrow_mut().take(command);
        };
        let (route, ()) = tokio::join!(directory.route(&target), answers);
        assert!(matches!(route, Ok((_, Way::Pass))));
    });
}

#[test]
fn ports_that_are_not_declared_share_one_subscription_and_nobody_waits_for_them() {
    run(async {
        let World { directory, control, wanted, .. } = world(|_| {});
        control.borrow_mut().say(default(&[80]));
        control.borrow_mut().say(Resource::Inbound(inbound(80, "shop/web:80")));
        let mut open = vec![directory.port(999).await.expect("let in by what holds for all")];
        wanted.begun();
        for number in 1000..11_000 {
            open.push(directory.port(number).await.expect("let in likewise"));
        }
        assert!(!wanted.begun(), "discovery is not hurried for a port that it need not be asked for");
        assert_eq!(control.borrow().watched, 1, "ten thousand ports");
        assert!(open.iter().all(|port| Rc::ptr_eq(&port.signals, &open[0].signals)), "and one set of counters");
        assert!(open.iter().all(|port| Arc::ptr_eq(&port.inbound(), &open[0].inbound())), "and one policy");
        open.clear();
        for number in 20_000..20_200 {
            directory.port(number).await.expect("let in");
        }
        let kept = (1..u16::MAX).filter(|number| directory.known_port(*number).is_some()).count();
        assert!(kept <= limits::UNDECLARED_PORTS_IDLE_MAX, "{kept} are remembered when they have gone");

        let own = async || directory.port(80).await.expect("declared");
        let (one, two) = tokio::join!(own(), own());
        assert!(Rc::ptr_eq(&one, &two), "two first connections make one port");
        assert_eq!(&*one.inbound().parent, "shop/web:80");
    });
}

#[test]
fn a_port_that_becomes_declared_takes_its_connections_along() {
    run(async {
        let World { directory, control, .. } = world(|_| {});
        control.borrow_mut().say(default(&[80]));
        let old = directory.port(90).await.expect("not declared");
        let mut changes = old.changes();
        control.borrow_mut().say(Resource::Inbound(inbound(90, "shop/web:90")));
        control.borrow_mut().say(default(&[80, 90]));
        changes.next().await;
        until("open connections see the new policy", || &*old.inbound().parent == "shop/web:90").await;
        let new = directory.port(90).await.expect("declared");
        assert!(!Rc::ptr_eq(&old, &new) && old.inbound().port == 90);
        let denies = Inbound { default_deny: true, ..inbound(90, "shop/web:90") };
        control.borrow_mut().say(Resource::Inbound(denies));
        until("and what follows", || old.inbound().default_deny && new.inbound().default_deny).await;
    });
}

#[test]
fn a_port_of_which_nothing_is_known_lets_nobody_in_and_says_why() {
    run(async {
        let World { directory, control, .. } = world(|_| {});
        let why = async |number| directory.port(number).await.err().map(|refusal| refusal.reason);
        assert_eq!(why(80).await, Some(Reason::DiscoverySilent));
        control.borrow_mut().say(default(&[80, 90]));
        let unusable = State::Unusable("inbound 80: mtls".into());
        control.borrow_mut().answers.insert(Name::Inbound(80), unusable);
        let found = why(80).await;
        assert_eq!(
            found,
            Some(Reason::UnusableConfig),
            "a declared port never falls back to what holds for the others"
        );
        until("it is asked for again", || control.borrow().doubted == [Name::Inbound(80)]).await;
        assert_eq!(why(90).await, Some(Reason::DiscoverySilent));
        assert_eq!(why(70).await, None);
    });
}

#[test]
fn a_loss_is_no_start() {
    run(async {
        let (handle, ends) =
            Handle::new(limits::START_PATIENCE, Networks::default(), config::tests::least().settings());
        ends.link.send_replace(Link::Open);
        ends.link.send_replace(Link::Lost);
        let long = Instant::now() + limits::START_PATIENCE;
        let started = tokio::time::timeout(Duration::from_secs(1), handle.started(long)).await;
        assert!(started.is_ok(), "who waits for a stream that was lost waits no longer than usual");
    });
}
