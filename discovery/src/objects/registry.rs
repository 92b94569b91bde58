//! All kinds, one line each. Sources read what is listed here, and nothing else; the index says what each means
//! (`index::kinds`), or does not compile; a test compares the rights that the chart gives.

use super::{
    Metadata,
    attachment::AnyPolicy,
    kind::{Kind, Registered, Unreadable},
};
use std::sync::Arc;

/// Gives the list to a macro: names in [`Object`] and types.
macro_rules! all_kinds {
    ($then:ident) => {
        $then! {
            Namespace($crate::objects::core::Namespace),
            Node($crate::objects::core::Node),
            Pod($crate::objects::core::Pod),
            Service($crate::objects::core::Service),
            ServiceCidr($crate::objects::core::ServiceCidr),
            EndpointSlice($crate::objects::core::EndpointSlice),
            HttpRoute($crate::objects::routes::HttpRoute),
            GrpcRoute($crate::objects::routes::GrpcRoute),
            TlsRoute($crate::objects::routes::TlsRoute),
            TcpRoute($crate::objects::routes::TcpRoute),
            ReferenceGrant($crate::objects::routes::ReferenceGrant),
            AuthorizationPolicy($crate::objects::policy::AuthorizationPolicy),
            MeshTlsPolicy($crate::objects::policy::MeshTlsPolicy),
            BackendPolicy($crate::objects::policy::BackendPolicy),
            RateLimitPolicy($crate::objects::traffic::RateLimitPolicy),
            FaultPolicy($crate::objects::traffic::FaultPolicy),
            RevokedIdentity($crate::objects::revoked::RevokedIdentity),
            XMesh($crate::objects::mesh::XMesh),
        }
    };
}
pub(crate) use all_kinds;

/// Something to be done for each kind.
pub trait Visitor {
    /// Does it.
    fn kind<T: Kind + Into<Object>>(&mut self);
}

macro_rules! objects {
    ($($name:ident($of:ty),)*) => {
        /// One object of a kind that matters. Shared, never changed: whoever holds it holds the same.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Object {
            $($name(Arc<$of>),)*
        }

        $(
            impl From<$of> for Object {
                fn from(object: $of) -> Self {
                    Self::$name(Arc::new(object))
                }
            }

            impl From<Arc<$of>> for Object {
                fn from(object: Arc<$of>) -> Self {
                    Self::$name(object)
                }
            }
        )*

        impl Object {
            /// Its metadata.
            pub fn metadata(&self) -> &Metadata {
                match self {
                    $(Self::$name(object) => object.metadata(),)*
                }
            }

            /// Whether only what is said of it differs: its version and status.
            pub fn means_the_same(&self, other: &Self) -> bool {
                match (self, other) {
                    $((Self::$name(one), Self::$name(other)) => one.means_the_same(other),)*
                    _ => false,
                }
            }

            /// Its kind.
            pub fn registered(&self) -> Registered {
                match self {
                    $(Self::$name(_) => <$of>::registered(),)*
                }
            }

            /// Its kind, as manifests spell it.
            pub fn kind(&self) -> &'static str {
                self.registered().kind
            }

            /// Whether it forbids something, so that an error elsewhere must never remove it.
            pub fn restricts(&self) -> bool {
                match self {
                    $(Self::$name(_) => <$of>::RESTRICTS,)*
                }
            }

            /// Its status as it was read, as far as we say something there.
            pub fn said(&self) -> serde_json::Value {
                match self {
                    $(Self::$name(object) => object.said(),)*
                }
            }

            /// The same as a policy, if it is one.
            pub fn as_policy(&self) -> Option<&dyn AnyPolicy> {
                match self {
                    $(Self::$name(object) => object.as_policy(),)*
                }
            }

            /// What holds while its newest version cannot be read. `None`: this as it is.
            pub fn kept(&self, newest: &Unreadable) -> Option<Self> {
                match self {
                    $(Self::$name(object) => object.kept(newest).map(Self::from),)*
                }
            }

            /// What holds in place of an object of `kind` that never could be read. `None`: nothing.
            pub fn stand_in(kind: &str, newest: &Unreadable) -> Option<Self> {
                match kind {
                    $(<$of>::KIND => <$of>::stand_in(newest).map(Self::from),)*
                    _ => None,
                }
            }
        }

        /// Visits every kind, in the order of the list.
        pub fn visit(visitor: &mut impl Visitor) {
            $(visitor.kind::<$of>();)*
        }

        /// Every kind, in the order of the list.
        pub fn kinds() -> impl Iterator<Item = Registered> {
            [$(<$of>::registered(),)*].into_iter()
        }
    };
}

all_kinds!(objects);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::kind::{Defined, OUR_GROUP};
    use remora_kube::yaml;
    use std::collections::BTreeSet;

    /// What `remora install` prints.
    const CHART: &str = include_str!("../../../charts/remora/rendered/default.yaml");

    fn documents() -> impl Iterator<Item = serde_json::Value> {
        yaml::read(CHART).into_iter().filter_map(Result::ok).map(yaml::Node::into_json)
    }

    fn texts(value: &serde_json::Value) -> BTreeSet<String> {
        value.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
    }

    /// Group, resource and verb of each right that a ClusterRole gives.
    fn rights(role: &serde_json::Value) -> BTreeSet<(String, String, String)> {
        let mut rights = BTreeSet::new();
        for rule in role["rules"].as_array().into_iter().flatten() {
            for group in texts(&rule["apiGroups"]) {
                for resource in texts(&rule["resources"]) {
                    let verbs = texts(&rule["verbs"]).into_iter();
                    rights.extend(verbs.map(|verb| (group.clone(), resource.clone(), verb)));
                }
            }
        }
        rights
    }

    #[test]
    fn the_chart_gives_the_rights_that_the_kinds_need_and_no_others() {
        let ours = |role: &serde_json::Value| {
            role["kind"] == "ClusterRole" && role["metadata"]["name"] == remora_kube::names::DISCOVERY
        };
        let given = rights(&documents().find(ours).expect("discovery has a ClusterRole"));
        let needed = kinds().flat_map(|kind| {
            let right = |resource: String, verb: &str| (kind.group.to_owned(), resource, verb.to_owned());
            let mut rights = vec![right(kind.plural.into(), "list"), right(kind.plural.into(), "watch")];
            if kind.status.is_some() {
                rights.push(right(kind.plural.into(), "get"));
                rights.push(right(format!("{}/status", kind.plural), "patch"));
            }
            rights
        });
        // What it tells of their objects.
        let events = ["create", "patch"].map(|verb| ["events.k8s.io", "events", verb].map(str::to_owned).into());
        assert_eq!(given, needed.chain(events).collect());
    }

    #[test]
    fn the_chart_has_the_crds_of_our_kinds_and_no_others() {
        let crds: BTreeSet<_> = documents()
            .filter(|document| document["kind"] == "CustomResourceDefinition")
            .flat_map(|crd| {
                let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
                let (spec, names) = (&crd["spec"], &crd["spec"]["names"]);
                let version = text(&spec["versions"][0]["name"]);
                [(text(&spec["group"]), version, text(&names["kind"]), text(&names["plural"]))]
            })
            .collect();
        let ours = kinds().filter(|kind| kind.group == OUR_GROUP);
        let ours = ours.map(|kind| [kind.group, kind.version, kind.kind, kind.plural].map(str::to_owned));
        assert_eq!(crds, ours.map(|[group, version, kind, plural]| (group, version, kind, plural)).collect());
    }

    #[test]
    fn every_kind_has_a_name_of_its_own_and_what_we_define_says_what_became_of_it() {
        let names: BTreeSet<_> = kinds().map(|kind| kind.kind).collect();
        assert_eq!(names.len(), kinds().count());
        for kind in kinds().filter(|kind| kind.group == OUR_GROUP) {
            assert!(kind.status.is_some() && kind.defined == Defined::Custom, "{kind:?}");
        }
    }
}
