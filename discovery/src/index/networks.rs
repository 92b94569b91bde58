//! The ranges of the cluster's addresses: what in them is not known is not outside, only not known yet.
//!
//! From the settings, ServiceCIDRs and nodes. Addresses of Services and pods that lie outside of all of these are told one
//! by one; if there are many, another component allots them and the ranges are unknown.

use super::{Mesh, report};
use crate::objects::Object;
use ipnet::IpNet;
use remora_api::convert::LIST_MAX;
use remora_model::network;
use std::{net::IpAddr, sync::Arc};

/// The most addresses outside of the ranges that are sent one by one. Each change of them is sent to every proxy.
const STRAYS_MAX: usize = 256;

/// The ranges of one snapshot.
#[derive(Debug, Default)]
pub(super) struct Networks {
    /// In the order of their addresses, apart from each other.
    ranges: Vec<IpNet>,
    /// What is sent to proxies: the ranges and the addresses outside of them, or nothing if that would be incomplete.
    told: Arc<[IpNet]>,
}

impl Networks {
    /// The ranges that the objects and settings name, beside which `known` are addresses of Services and pods. What makes
    /// no sense is added to `reports`.
    pub(super) fn of<'a>(
        objects: &[Object],
        mesh: &Mesh,
        known: impl Iterator<Item = &'a IpAddr>,
        reports: &mut Vec<String>,
    ) -> Self {
        let mut ranges = mesh.networks.clone();
        for object in objects {
            let (field, cidrs): (&str, Vec<&String>) = match object {
                Object::ServiceCidr(ranges) => ("spec.cidrs", ranges.spec.cidrs.iter().collect()),
                Object::Node(node) => {
                    ("spec.podCIDRs", node.spec.pod_cidrs.iter().chain(&node.spec.pod_cidr).collect())
                }
                _ => continue,
            };
            for cidr in cidrs {
                match network::parse(cidr) {
                    Ok(range) => ranges.push(range.trunc()),
                    Err(problem) => {
                        let problem = format!("{field}: {cidr:?} {problem}");
                        reports.push(report(object.metadata(), object.kind(), problem));
                    }
                }
            }
        }
        let mut networks = Self { ranges: IpNet::aggregate(&ranges), told: Arc::default() };
        networks.ranges.sort();
        if networks.ranges.is_empty() {
            return networks;
        }
        let mut strays: Vec<IpAddr> = known.filter(|ip| !networks.contain(**ip)).copied().collect();
        strays.sort();
        strays.dedup();
        if strays.len() > STRAYS_MAX || networks.ranges.len() + strays.len() > LIST_MAX {
            reports.push(not_told(networks.ranges.len(), &strays));
            return networks;
        }
        let told = networks.ranges.iter().copied().chain(strays.into_iter().map(IpNet::from));
        networks.told = IpNet::aggregate(&told.collect::<Vec<_>>()).into();
        networks
    }

    /// Whether `ip` is in one of the ranges.
    pub(super) fn contain(&self, ip: IpAddr) -> bool {
        // They are apart, so only the last that begins before the address can have it.
        let after = self.ranges.partition_point(|range| range.network() <= ip);
        after.checked_sub(1).and_then(|at| self.ranges.get(at)).is_some_and(|range| range.contains(&ip))
    }

    /// What is sent to proxies. Empty: unknown.
    pub(super) fn told(&self) -> &Arc<[IpNet]> {
        &self.told
    }
}

/// Why no ranges are sent to proxies.
fn not_told(ranges: usize, strays: &[IpAddr]) -> String {
    let effect = "so proxies get no ranges and take every address for the cluster's until discovery has described it";
    match strays.first() {
        Some(first) if strays.len() > STRAYS_MAX => format!(
            "cluster networks: {} addresses of Services and pods, as {first}, are in none of the ranges, {effect}; \
             --cluster-networks names the missing ones",
            strays.len()
        ),
        _ => format!(
            "cluster networks: there are {ranges} ranges apart from each other and {} addresses of Services and pods in \
             none of them, more than the {LIST_MAX} that are told, {effect}; a range around many of them, by --cluster-networks, makes them fewer",
            strays.len()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(ranges: &[&str], known: &[IpAddr]) -> (Networks, Vec<String>) {
        let mut reports = Vec::new();
        let mesh = Mesh { networks: ranges.iter().map(|range| range.parse().unwrap()).collect(), ..Mesh::default() };
        (Networks::of(&[], &mesh, known.iter(), &mut reports), reports)
    }

    #[test]
    fn an_address_is_in_the_range_that_has_it_whatever_the_others_are() {
        let ranges = ["10.0.0.0/16", "10.244.0.0/24", "10.244.1.0/24", "fd00::/8", "10.0.0.0/24", "192.168.7.7/32"];
        let (networks, _) = networks(&ranges, &[]);
        let has = |ip: &str| networks.contain(ip.parse().unwrap());
        for ip in ["10.0.0.0", "10.0.255.255", "10.244.0.1", "10.244.1.255", "fd00::1", "192.168.7.7"] {
            assert!(has(ip), "{ip}");
        }
        for ip in ["9.255.255.255", "10.1.0.0", "10.244.2.0", "192.168.7.6", "192.168.7.8", "fe00::", "::1", "0.0.0.0"]
        {
            assert!(!has(ip), "{ip}");
        }
    }

    #[test]
    fn strays_are_told_one_by_one_until_they_are_too_many_to_believe_the_ranges() {
        let strays = |count: u16| -> Vec<IpAddr> {
            (0..count).map(|n| IpAddr::from([192, 168, n.to_be_bytes()[0], n.to_be_bytes()[1]])).collect()
        };
        let told = |count| {
            let (networks, reports) = networks(&["10.0.0.0/8"], &strays(count));
            let inside = strays(count).iter().filter(|ip| networks.told.iter().any(|net| net.contains(*ip))).count();
            (inside, networks.told.len(), reports.len())
        };
        assert_eq!((told(0), told(1)), ((0, 1, 0), (1, 2, 0)));
        assert_eq!(told(256), (256, 2, 0), "neighbours are one range");
        assert_eq!(told(257), (0, 0, 1));
        let ranges: Vec<String> = (0..=LIST_MAX).map(|n| format!("10.{}.{}.0/25", n / 256, n % 256)).collect();
        let (many, said) = networks(&ranges.iter().map(String::as_str).collect::<Vec<_>>(), &strays(0));
        assert!(many.told.is_empty() && said[0].contains("there are 4097 ranges apart from each other"), "{said:?}");
        assert!(networks(&[], &strays(3)).0.told.is_empty(), "nobody knows any range");
    }
}
