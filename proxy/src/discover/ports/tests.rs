use super::*;
use crate::discover::tests::{World, default, inbound, run, until, world};
use remora_model::InboundDefault;

const PORT: u16 = 80;

fn declared(change: impl FnOnce(&mut Inbound)) -> Resource {
    let Resource::InboundDefault(InboundDefault { mut inbound, declared }) = default(&[PORT]) else { panic!() };
    change(&mut inbound);
    Resource::InboundDefault(InboundDefault { inbound, declared })
}

#[test]
fn no_more_connections_wait_for_a_port_than_may_and_a_place_that_is_left_is_free() {
    run(async {
        let World { directory, control, .. } = world(|_| {});
        let (left, begun) = (Rc::new(Notify::new()), Rc::new(Cell::new(0)));
        for _ in 0..limits::WAITING_INBOUND_MAX {
            let (directory, left, begun) = (directory.clone(), left.clone(), begun.clone());
            tokio::task::spawn_local(async move {
                begun.set(begun.get() + 1);
                let asked = std::pin::pin!(directory.port(PORT));
                let goes = std::pin::pin!(left.notified());
                let gone = futures_util::future::select(asked, goes).await;
                assert!(matches!(&gone, futures_util::future::Either::Right(_)), "nobody answers");
                drop(gone);
                begun.set(begun.get() - 1);
            });
        }
        until("all wait", || begun.get() == limits::WAITING_INBOUND_MAX).await;
        let refusal = directory.port(999).await.expect_err("all places are taken");
        assert_eq!(refusal.reason, Reason::Overloaded);
        left.notify_waiters();
        until("all have left", || begun.get() == 0).await;
        let late = async {
            tokio::task::yield_now().await;
            control.borrow_mut().say(default(&[]));
        };
        let (port, ()) = tokio::join!(directory.port(999), late);
        assert_eq!(port.expect("there is a place").number, 999);
    });
}

#[test]
fn ports_in_use_are_never_forgotten_nor_is_one_that_is_used_again_and_again() {
    run(async {
        let World { directory, control, .. } = world(|_| {});
        control.borrow_mut().say(default(&[]));
        let mut held = Vec::new();
        for number in 1..=100 {
            held.push(directory.port(number).await.expect("let in"));
        }
        let often = Rc::downgrade(&directory.port(5000).await.expect("let in"));
        let mut idle = Vec::new();
        for number in 10_000..11_000 {
            idle.push(Rc::downgrade(&directory.port(number).await.expect("let in")));
            let again = directory.port(5000).await.expect("let in");
            assert!(std::ptr::eq(Rc::as_ptr(&again), often.as_ptr()), "forgotten at {number}");
            let kept = idle.iter().filter(|port| port.strong_count() > 0).count();
            assert!(kept <= 2 * limits::UNDECLARED_PORTS_IDLE_MAX, "{kept} idle ports are remembered");
        }
        assert!(idle.last().is_some_and(|port| port.strong_count() == 1), "the last one is known still");
        for port in held {
            let known = directory.known_port(port.number).expect("it is in use");
            assert!(Rc::ptr_eq(&known, &port));
        }
    });
}

#[test]
fn a_port_that_there_is_no_subscription_for_is_refused_until_there_is_one() {
    run(async {
        let World { directory, control, .. } = world(|_| {});
        control.borrow_mut().say(default(&[PORT]));
        control.borrow_mut().say(Resource::Inbound(inbound(PORT, "shop/web:80")));
        let other = directory.port(999).await.expect("what holds for all others is known");
        control.borrow_mut().full = true;
        let refusal = directory.port(PORT).await.expect_err("there is no room");
        assert_eq!((refusal.reason, &*refusal.detail), (Reason::Overloaded, "no room for port 80"));
        let same = directory.port(999).await.expect("it needs none");
        assert!(Rc::ptr_eq(&same, &other));
        control.borrow_mut().full = false;
        assert_eq!(&*directory.port(PORT).await.expect("there is room").inbound().parent, "shop/web:80");
    });
}

#[test]
fn what_holds_for_all_ports_changes_for_open_ones_and_their_counters_go_by_its_name() {
    run(async {
        let World { directory, control, .. } = world(|_| {});
        control.borrow_mut().say(declared(|_| ()));
        let open = directory.port(999).await.expect("let in");
        control.borrow_mut().say(declared(|inbound| inbound.default_deny = true));
        until("open connections see it", || open.inbound().default_deny).await;
        let next = directory.port(1000).await.expect("the port is known; policy says no to its connections");
        assert!(next.inbound().default_deny && Rc::ptr_eq(&next.signals, &open.signals));
        control.borrow_mut().say(declared(|inbound| inbound.parent = "shop/web-2:*".into()));
        until("open connections see it", || !open.inbound().default_deny).await;
        let renamed = directory.port(1001).await.expect("let in");
        assert_eq!((renamed.signals.parent(), open.signals.parent()), ("shop/web-2:*", "shop/web-1:*"));
    });
}

#[test]
fn an_end_of_the_pod_is_heard_on_every_port_that_is_open() {
    run(async {
        let World { directory, control, .. } = world(|_| {});
        control.borrow_mut().say(declared(|_| ()));
        control.borrow_mut().say(Resource::Inbound(inbound(PORT, "shop/web:80")));
        let (own, other) = (directory.port(PORT).await.unwrap(), directory.port(999).await.unwrap());
        assert!(!own.is_ending() && !other.is_ending());
        control.borrow_mut().say(Resource::Inbound(Inbound { ending: true, ..inbound(PORT, "shop/web:80") }));
        own.ending().await;
        assert!(own.is_ending() && !other.is_ending());
        control.borrow_mut().say(declared(|inbound| inbound.ending = true));
        other.ending().await;
        assert!(other.is_ending());
    });
}
