//! What the admin port tells as it happens, by server-sent events: signals once a second with the rows that changed, and requests as they end.
//!
//! A reader costs the control thread some work while it takes what it is sent, and nothing while it does not: each event is made when the one before
//! has gone, so that a slow one misses steps and nothing queues up. There are at most [`limits::LIVE_READERS_MAX`] readers at a time.

use super::{
    AdminState,
    signals::{self, Told},
};
use crate::{
    limits,
    telemetry::{Filter, Follow},
};
use axum::{
    Extension,
    extract::{Query, State},
    http::StatusCode,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::stream;
use remora_runtime::drain;
use serde::Deserialize;
use serde_json::json;
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Interval, MissedTickBehavior, interval},
};

/// How often a reader of signals hears of changes.
const STEP: Duration = Duration::from_secs(1);
/// How often a reader of tap hears of what ended.
const TAP_STEP: Duration = Duration::from_millis(250);
/// After so many of these steps without anything it hears that there was nothing.
const QUIET_STEPS: u32 = 12;
/// A request of the admin port that is answered with this instead.
pub(super) type Refused = (StatusCode, String);

/// Places for readers, who are sent away when the admin port stops.
#[derive(Clone)]
pub(super) struct Readers {
    places: Arc<Semaphore>,
    stop: drain::Watch,
}

/// What a reader holds.
struct Place {
    stop: drain::Watch,
    _permit: OwnedSemaphorePermit,
}

impl Readers {
    /// None yet; they leave with `stop`.
    pub(super) fn until(stop: drain::Watch) -> Self {
        Self { places: Arc::new(Semaphore::new(limits::LIVE_READERS_MAX)), stop }
    }

    fn enter(&self) -> Result<Place, Refused> {
        let full = || {
            let text = format!("{} readers follow this proxy already; end one of them\n", limits::LIVE_READERS_MAX);
            (StatusCode::SERVICE_UNAVAILABLE, text)
        };
        let permit = self.places.clone().try_acquire_owned().map_err(|_| full())?;
        Ok(Place { stop: self.stop.clone(), _permit: permit })
    }
}

impl Place {
    /// The next event; none once the admin port stops.
    async fn unless_stopped(&self, next: impl Future<Output = Event>) -> Option<Event> {
        tokio::select! {
            event = next => Some(event),
            () = self.stop.signaled() => None,
        }
    }
}

/// What `/tap` and `/tap/live` are asked for.
#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    #[serde(default)]
    pub(super) filter: String,
    pub(super) last: Option<usize>,
}

impl Asked {
    pub(super) fn filter(&self) -> Result<Filter, Refused> {
        Filter::parse(&self.filter).map_err(|error| (StatusCode::BAD_REQUEST, format!("{error}\n")))
    }
}

/// `/signals/live`.
pub(super) async fn of_signals(State(state): State<AdminState>, Extension(readers): Extension<Readers>) -> Response {
    let place = match readers.enter() {
        Ok(place) => place,
        Err(full) => return full.into_response(),
    };
    let reader = Reader { state, steps: steps(STEP), told: Told::default() };
    events(stream::unfold((reader, place), async |(mut reader, place)| {
        let event = place.unless_stopped(reader.next()).await?;
        Some((Ok::<_, Infallible>(event), (reader, place)))
    }))
}

/// `/tap/live`.
pub(super) async fn tap(
    State(state): State<AdminState>,
    Extension(readers): Extension<Readers>,
    Query(asked): Query<Asked>,
) -> Response {
    let opened = asked.filter().and_then(|filter| Ok((filter, readers.enter()?)));
    let (filter, place) = match opened {
        Ok(opened) => opened,
        Err(refused) => return refused.into_response(),
    };
    let follow = state.routes.follow(filter);
    events(stream::unfold((follow, steps(TAP_STEP), place), async |(mut follow, mut steps, place)| {
        let event = place.unless_stopped(ended(&mut follow, &mut steps)).await?;
        Some((Ok::<_, Infallible>(event), (follow, steps, place)))
    }))
}

/// The next event: what ended, or that nothing did, as a sign of life.
async fn ended(follow: &mut Follow, steps: &mut Interval) -> Event {
    // Four steps make the second that the bound is for.
    let most = limits::TAP_LIVE_MAX / 4;
    let mut quiet = 0;
    loop {
        steps.tick().await;
        let (records, missed) = follow.next(most);
        quiet += 1;
        if !records.is_empty() || missed > 0 || quiet == QUIET_STEPS {
            return event("records", json!({ "records": records, "dropped": missed }).to_string());
        }
    }
}

fn steps(every: Duration) -> Interval {
    let mut steps = interval(every);
    steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    steps
}

fn events<S>(events: S) -> Response
where
    S: futures_util::Stream<Item = Result<Event, Infallible>> + Send + 'static,
{
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}

fn event(name: &str, json: String) -> Event {
    // JSON has no line feed, which is all that could end the event early.
    Event::default().event(name).data(json)
}

/// A reader of signals, with what it was told.
struct Reader {
    state: AdminState,
    steps: Interval,
    told: Told,
}

impl Reader {
    async fn next(&mut self) -> Event {
        self.steps.tick().await;
        let name = if self.told.is_new() { "all" } else { "change" };
        event(name, signals::text(&self.state, false, Some(&mut self.told)).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admin::{Admin, Saturation, signals::tests::Replayed},
        inspect, probe,
        telemetry::{Counters, Direction, Journal, Proto, Reason, Routes, Tls},
    };
    use remora_runtime::admin::Readiness;
    use serde_json::{Map, Value};
    use tokio::time::Instant;

    fn state(routes: &Arc<Routes>) -> AdminState {
        AdminState {
            common: Admin::new(Readiness::new()),
            routes: routes.clone(),
            inspect: inspect::channel(0).0,
            saturation: Saturation::of(1000, None),
            discovery: Arc::new(|| json!({"state": "open"})),
            config: Arc::new(|| json!({})),
            certificate: Arc::new(|| json!({})),
            probes: probe::Asked::default(),
            hosts: Vec::new(),
            drain: Arc::new(|| ()),
        }
    }

    fn ask(counters: &Counters, path: &str, fails: bool) {
        let (request, now) = (http::Request::get(path).body(()).unwrap(), Instant::now());
        let mut begun = counters.request(None, &request, Proto::Http1, (&"".into(), Tls::Mtls), now);
        if fails { begun.failure(Reason::Timeout, now) } else { begun.success(now) }
    }

    /// The name and the data of an event as it goes over the wire.
    async fn sent(event: Event) -> (String, Map<String, Value>) {
        let body = events(stream::iter([Ok(event)])).into_body();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let (name, data) = text.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
        (name.to_owned(), serde_json::from_str(data.strip_suffix("\n\n").unwrap()).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_gets_everything_first_and_then_what_makes_it_what_signals_shows() {
        let routes = Routes::new("shop/web-1".into());
        let services: Vec<_> = ["shop/api:80", "shop/cart:80", "shop/db:80"]
            .map(|name| Counters::new(Journal::new(&routes), Direction::Outbound, name.into(), Vec::new()))
            .into();
        ask(&services[0], "/a", false);
        let mut reader = Reader { state: state(&routes), steps: steps(STEP), told: Told::default() };
        let (mut replayed, mut rng, mut began) = (Replayed::default(), fastrand::Rng::with_seed(4), Instant::now());
        for number in 0..12 {
            for _ in 0..rng.u32(..3) {
                ask(&services[rng.usize(..3)], ["/a", "/b", "/c"][rng.usize(..3)], rng.bool());
                routes.tick(Instant::now());
            }
            let (name, data) = sent(reader.next().await).await;
            assert_eq!(name, if number == 0 { "all" } else { "change" });
            assert_eq!(began.elapsed(), if number == 0 { Duration::ZERO } else { STEP });
            began = Instant::now();
            replayed.take(&data);
            let now = signals::text(&reader.state, false, None).await;
            replayed.check(&serde_json::from_str(&now).unwrap());
            assert_eq!(data["discovery"]["state"], "open");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_of_tap_hears_of_what_ended_at_the_next_step_and_of_silence_after_twelve() {
        let routes = Routes::new("shop/web-1".into());
        let counters = Counters::new(Journal::new(&routes), Direction::Outbound, "shop/api:80".into(), Vec::new());
        let mut follow = routes.follow(Filter::parse("failed").unwrap());
        let (mut steps, began) = (steps(TAP_STEP), Instant::now());
        let (name, data) = sent(ended(&mut follow, &mut steps).await).await;
        assert_eq!((name.as_str(), &data["records"], &data["dropped"]), ("records", &json!([]), &json!(0)));
        assert_eq!(began.elapsed(), TAP_STEP * (QUIET_STEPS - 1), "the first step is at once");
        ask(&counters, "/fine", false);
        ask(&counters, "/failed", true);
        let began = Instant::now();
        let (_, data) = sent(ended(&mut follow, &mut steps).await).await;
        assert_eq!(began.elapsed(), TAP_STEP);
        assert_eq!((&data["records"][0]["path"], &data["records"][1]), (&json!("/failed"), &Value::Null));
        let most = limits::TAP_LIVE_MAX / 4;
        (0..most + 3).for_each(|_| ask(&counters, "/failed", true));
        let (_, data) = sent(ended(&mut follow, &mut steps).await).await;
        assert_eq!((data["records"].as_array().unwrap().len(), &data["dropped"]), (most, &json!(3)));
    }

    #[tokio::test]
    async fn a_reader_is_sent_away_when_the_port_stops_whatever_it_waits_for() {
        let (signal, stop) = drain::channel();
        let readers = Readers::until(stop);
        let place = readers.enter().unwrap();
        assert!(place.unless_stopped(async { event("all", "{}".to_owned()) }).await.is_some());
        signal.start();
        assert!(place.unless_stopped(std::future::pending()).await.is_none());
    }
}
