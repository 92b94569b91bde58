//! The ranges of the cluster's addresses: what in them is not known is not outside, only not known yet.
//!
//! From the settings, ServiceCIDRs and nodes. Addresses of Services and pods that lie outside of all of these are told one
//! by one; if there are many, another component allots them and the ranges are unknown.

use super::{Mesh, derived::Ranges, facts::Facts};
use crate::objects::Object;
use ipnet::IpNet;
use remora_api::convert::LIST_MAX;
use remora_model::network;
use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

/// The most addresses outside of the ranges that are sent one by one. Each change of them is sent to every proxy.
const STRAYS_MAX: usize = 256;

/// The ranges that an object names, and what is wrong with others.
pub(super) fn read(object: &Object) -> (Vec<IpNet>, Vec<String>) {
    let (field, cidrs): (&str, Vec<&String>) = match object {
        Object::ServiceCidr(ranges) => ("spec.cidrs", ranges.spec.cidrs.iter().collect()),
        Object::Node(node) => ("spec.podCIDRs", node.spec.pod_cidrs.iter().chain(&node.spec.pod_cidr).collect()),
        _ => return Default::default(),
    };
    let (mut ranges, mut problems) = (Vec::new(), Vec::new());
    for cidr in cidrs {
        match network::parse(cidr) {
            Ok(range) => ranges.push(range.trunc()),
            Err(problem) => problems.push(format!("{field}: {cidr:?} {problem}")),
        }
    }
    (ranges, problems)
}

impl Ranges {
    /// Those of the settings and of objects.
    pub(super) fn of<'a>(mesh: &Mesh, objects: impl Iterator<Item = &'a Object>) -> Self {
        let mut ranges = mesh.networks.clone();
        ranges.extend(objects.flat_map(|object| read(object).0));
        let mut ranges = IpNet::aggregate(&ranges);
        ranges.sort();
        Self(ranges)
    }

    /// What is sent to proxies: the ranges and the addresses outside of them. Nothing if that would be incomplete, and why.
    fn told(&self, strays: &BTreeSet<IpAddr>) -> Result<Arc<[IpNet]>, Option<String>> {
        if self.0.is_empty() {
            return Err(None);
        }
        if strays.len() > STRAYS_MAX || self.0.len() + strays.len() > LIST_MAX {
            return Err(Some(not_told(self.0.len(), strays)));
        }
        let told = self.0.iter().copied().chain(strays.iter().copied().map(IpNet::from));
        Ok(IpNet::aggregate(&told.collect::<Vec<_>>()).into())
    }
}

impl Facts {
    /// The ranges anew, after objects that name them or addresses outside of them changed. What makes no sense.
    pub(super) fn index_networks(&mut self) -> Vec<String> {
        let ranges = Ranges::of(&self.mesh, self.ranged.values());
        if self.ranges.put((), Some(ranges.clone())) {
            let known = self.service_by_ip.unnoted().keys().chain(self.pod_by_ip.unnoted().keys());
            self.strays = known.filter(|ip| !ranges.contain(**ip)).copied().collect();
        }
        let told = ranges.told(&self.strays);
        self.told_networks.put((), Some(told.clone().unwrap_or_default()));
        told.err().flatten().into_iter().collect()
    }

    /// Whether a Service or pod has the address.
    pub(super) fn is_known(&self, ip: IpAddr) -> bool {
        self.service_by_ip.unnoted().contains_key(&ip) || self.pod_by_ip.unnoted().contains_key(&ip)
    }

    /// Whether an address is in one of the cluster's ranges.
    pub(super) fn is_ranged(&self, ip: IpAddr) -> bool {
        self.ranges.get(&()).is_some_and(|ranges| ranges.contain(ip))
    }
}

/// Why no ranges are sent to proxies.
fn not_told(ranges: usize, strays: &BTreeSet<IpAddr>) -> String {
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

    fn networks(ranges: &[&str], known: &[IpAddr]) -> (Ranges, Arc<[IpNet]>, Vec<String>) {
        let mesh = Mesh { networks: ranges.iter().map(|range| range.parse().unwrap()).collect(), ..Mesh::default() };
        let ranges = Ranges::of(&mesh, std::iter::empty());
        let told = ranges.told(&known.iter().copied().collect());
        let said = told.clone().err().flatten().into_iter().collect();
        (ranges, told.unwrap_or_default(), said)
    }

    #[test]
    fn an_address_is_in_the_range_that_has_it_whatever_the_others_are() {
        let ranges = ["10.0.0.0/16", "10.244.0.0/24", "10.244.1.0/24", "fd00::/8", "10.0.0.0/24", "192.168.7.7/32"];
        let (networks, ..) = networks(&ranges, &[]);
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
            let (_, told, reports) = networks(&["10.0.0.0/8"], &strays(count));
            let inside = strays(count).iter().filter(|ip| told.iter().any(|net| net.contains(*ip))).count();
            (inside, told.len(), reports.len())
        };
        assert_eq!((told(0), told(1)), ((0, 1, 0), (1, 2, 0)));
        assert_eq!(told(256), (256, 2, 0), "neighbours are one range");
        assert_eq!(told(257), (0, 0, 1));
        let ranges: Vec<String> = (0..=LIST_MAX).map(|n| format!("10.{}.{}.0/25", n / 256, n % 256)).collect();
        let (_, many, said) = networks(&ranges.iter().map(String::as_str).collect::<Vec<_>>(), &strays(0));
        assert!(many.is_empty() && said[0].contains("there are 4097 ranges apart from each other"), "{said:?}");
        assert!(networks(&[], &strays(3)).1.is_empty(), "nobody knows any range");
    }
}
