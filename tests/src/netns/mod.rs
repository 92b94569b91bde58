//! Pods as network namespaces. In: a sentence such as `net.pod("client")?.command("curl").uid(1000)`. Out: real
//! processes in namespaces of their own, joined by a bridge, with IPv4 and IPv6. Does not: fake anything.
//!
//! ```text
//!            our own network namespace: bridge 10.77.0.1, fd77::1
//!      ┌──────────────────────┼──────────────────────┐
//!  pod client             pod server             pod control
//!  10.77.0.2, fd77::2     10.77.0.3, fd77::3     10.77.0.4, fd77::4
//! ```
//!
//! A test program calls [`run`] from its `main` ([`unshare`] says how it gets its namespaces). All processes live in
//! a process namespace of their own that dies with the program, so that nothing is left behind.

pub mod apps;
pub mod capture;
pub mod go;
mod load;
pub mod mesh;
mod origin;
mod process;
mod roles;
pub mod scene;
pub mod unshare;
pub mod visits;

pub use process::{Command, Process};
pub use unshare::{Test, run};

use anyhow::{Context as _, ensure};
use std::{
    cell::Cell,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::Command as Tool,
};

/// The uid that the redirect rules let through.
pub const PROXY_UID: u32 = 2102;
/// A uid for applications: anybody but root and the proxy.
pub const APP_UID: u32 = 1000;

/// A bridge that pods are plugged into.
#[derive(Debug)]
pub struct Network {
    /// The last byte of the addresses of the next pod.
    next: Cell<u8>,
    /// Tells the networks of one program apart.
    bridge: String,
}

impl Network {
    /// A network without pods; `name` (at most six letters) tells it from others of this program.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let bridge = format!("br-{name}");
        ip(&format!("link add {bridge} type bridge"))?;
        ip(&format!("addr add 10.77.0.1/24 dev {bridge}"))?;
        ip(&format!("addr add fd77::1/64 dev {bridge} nodad"))?;
        ip(&format!("link set {bridge} up"))?;
        Ok(Self { next: Cell::new(2), bridge })
    }

    /// Plugs in a pod; its name (at most eight letters) must be unused in this program.
    pub fn pod(&self, name: &str) -> anyhow::Result<Pod> {
        let number = self.next.get();
        self.next.set(number + 1);
        let pod = Pod {
            name: name.to_owned(),
            ipv4: Ipv4Addr::new(10, 77, 0, number),
            ipv6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, u16::from(number)),
        };
        let (bridge, outer) = (&self.bridge, format!("veth-{name}"));
        ip(&format!("netns add {name}"))?;
        ip(&format!("link add {outer} type veth peer name eth0 netns {name}"))?;
        ip(&format!("link set {outer} master {bridge} up"))?;
        ip(&format!("-n {name} link set lo up"))?;
        ip(&format!("-n {name} addr add {}/24 dev eth0", pod.ipv4))?;
        ip(&format!("-n {name} addr add {}/64 dev eth0 nodad", pod.ipv6))?;
        ip(&format!("-n {name} link set eth0 up"))?;
        ip(&format!("-n {name} route add default via 10.77.0.1"))?;
        Ok(pod)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // A leftover bridge would only shadow the next network of the same name; the namespace dies soon anyway.
        if let Err(error) = ip(&format!("link del {}", self.bridge)) {
            eprintln!("removing {}: {error:#}", self.bridge);
        }
    }
}

/// A network namespace with an address of each family.
#[derive(Debug)]
pub struct Pod {
    name: String,
    /// Its IPv4 address.
    pub ipv4: Ipv4Addr,
    /// Its IPv6 address.
    pub ipv6: Ipv6Addr,
}

impl Pod {
    /// Both addresses, IPv4 first.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.ipv4.into(), self.ipv6.into()]
    }

    /// The pod's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A program to run in this pod, as root unless told otherwise.
    pub fn command(&self, program: impl Into<std::ffi::OsString>) -> Command {
        Command::new(&self.name, program.into())
    }

    /// Does something on a thread inside this pod: sockets that it makes stay there, and work from outside.
    pub fn inside<T: Send>(&self, act: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        let path = format!("/run/netns/{}", self.name);
        let namespace = std::fs::File::open(&path).with_context(|| format!("opening {path}"))?;
        std::thread::scope(|scope| {
            let entered = scope.spawn(|| {
                crate::sys::enter_network(&namespace).context("entering a pod")?;
                act()
            });
            entered.join().map_err(|_| anyhow::anyhow!("a thread in pod {} panicked", self.name))?
        })
    }

    /// This test program itself in this pod, playing one of the [`roles`]: `dial`, `answer`, `init`, ….
    pub fn role(&self, role: &str) -> Command {
        self.command(unshare::own_program()).arg("--role").arg(role)
    }

    /// Installs the redirect rules in this pod (`remora-proxy init`).
    pub fn redirect(&self) -> anyhow::Result<String> {
        self.role("init").output()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // A namespace ends some time after its deletion, its links with it; the next pod may want the name at once.
        for words in [format!("link del veth-{}", self.name), format!("netns del {}", self.name)] {
            if let Err(error) = ip(&words) {
                eprintln!("removing pod {}: {error:#}", self.name);
            }
        }
    }
}

/// Runs `ip` with these words.
fn ip(words: &str) -> anyhow::Result<()> {
    let output = Tool::new("ip").args(words.split(' ')).output().context("running ip (package iproute2)")?;
    ensure!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
