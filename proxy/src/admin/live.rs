//! What the admin port tells as it happens, by server-sent events: signals once a second with the rows that changed, and requests as they end.
//!
//! A reader costs the control thread some work while it takes what it is sent, and nothing while it does not: each event is made when the one before
//! has gone, so that a slow one misses steps and nothing queues up. There are at most [`limits::LIVE_READERS_MAX`] readers at a time.

use super::AdminState;
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
use serde_json::{Map, Value, json};
use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};
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
/// Lists of [`Routes::signals`](crate::telemetry::Routes::signals), and the field that tells their rows apart.
const LISTS: [(&str, &str); 4] = [("routes", "id"), ("edges", "id"), ("peers", "id"), ("backends", "name")];

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
pub(super) async fn signals(State(state): State<AdminState>, Extension(readers): Extension<Readers>) -> Response {
    let place = match readers.enter() {
        Ok(place) => place,
        Err(full) => return full.into_response(),
    };
    let reader = Reader { state, steps: steps(STEP), seen: None };
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
            return event("records", &json!({ "records": records, "dropped": missed }));
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

fn event(name: &str, data: &Value) -> Event {
    // JSON has no line feed, which is all that could end the event early.
    Event::default().event(name).data(data.to_string())
}

/// A reader of signals, with what it was told last.
struct Reader {
    state: AdminState,
    steps: Interval,
    seen: Option<Rows>,
}

/// Rows as they were told, by list and name.
type Rows = [HashMap<String, Value>; LISTS.len()];

impl Reader {
    async fn next(&mut self) -> Event {
        self.steps.tick().await;
        let now = super::signals_json(&self.state, false).await;
        match &mut self.seen {
            None => {
                self.seen = Some(rows(&now));
                event("all", &Value::Object(now))
            }
            Some(seen) => event("change", &Value::Object(change(now, seen))),
        }
    }
}

fn name(row: &Value, field: &str) -> String {
    row[field].to_string()
}

fn rows(signals: &Map<String, Value>) -> Rows {
    LISTS.map(|(list, field)| {
        let rows = signals.get(list).and_then(Value::as_array).into_iter().flatten();
        rows.map(|row| (name(row, field), row.clone())).collect()
    })
}

/// What is not as `seen`, which becomes as `now`.
fn change(mut now: Map<String, Value>, seen: &mut Rows) -> Map<String, Value> {
    let mut gone = Map::new();
    for ((list, field), seen) in LISTS.into_iter().zip(seen) {
        let Some(Value::Array(rows)) = now.get_mut(list) else { continue };
        let there: HashSet<String> = rows.iter().map(|row| name(row, field)).collect();
        rows.retain(|row| {
            let known = seen.get_mut(&name(row, field));
            match known {
                Some(known) if known == row => false,
                Some(known) => {
                    known.clone_from(row);
                    true
                }
                None => {
                    seen.insert(name(row, field), row.clone());
                    true
                }
            }
        });
        let mut left = Vec::new();
        seen.retain(|name, row| {
            let stays = there.contains(name);
            if !stays {
                left.push(match list {
                    // What an edge is called by others: they need not keep its number.
                    "edges" => json!({ "id": row["id"], "route": row["route"], "peer": row["peer"], "tls": row["tls"], "protocol": row["protocol"] }),
                    _ => row[field].clone(),
                });
            }
            stays
        });
        gone.insert(list.to_owned(), Value::Array(left));
    }
    now.insert("gone".to_owned(), Value::Object(gone));
    now
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signals(routes: Value) -> Map<String, Value> {
        Map::from_iter([("at_ms".to_owned(), json!(1)), ("routes".to_owned(), routes)])
    }

    #[test]
    fn a_change_has_the_rows_that_are_not_what_they_were_and_the_names_of_those_that_are_gone() {
        let mut seen = rows(&signals(json!([{"id": 1, "n": 1}, {"id": 2, "n": 1}, {"id": 3, "n": 1}])));
        let changed = change(signals(json!([{"id": 1, "n": 1}, {"id": 2, "n": 2}, {"id": 4, "n": 1}])), &mut seen);
        assert_eq!(changed["routes"], json!([{"id": 2, "n": 2}, {"id": 4, "n": 1}]));
        assert_eq!(changed["gone"]["routes"], json!([3]));
        let again = change(signals(json!([{"id": 1, "n": 1}, {"id": 2, "n": 2}, {"id": 4, "n": 1}])), &mut seen);
        assert_eq!((&again["routes"], &again["gone"]["routes"]), (&json!([]), &json!([])));
    }
}
