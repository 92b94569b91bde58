//! Two proxies with an application behind one of them, another application outside the mesh, a workload without
//! manners, and a bystander.

use super::{Bystander, Line, Recorder, Workload, bystander::TARGET, rows::Way, servers::Puppet};
use crate::{
    local::{Mesh, Proxy},
    patience::until,
};
use anyhow::{Context as _, ensure};
use remora_runtime::tls::Alpn;
use std::path::PathBuf;

/// Which way bytes take to an application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Road {
    /// HTTP/1 to our outbound, HTTP/2 in mesh TLS, our inbound, HTTP/1.
    Mesh,
    /// HTTP/1 to our outbound, HTTP/1 to an application outside the mesh.
    Outside,
    /// HTTP/1 in mesh TLS of a workload without a proxy, our inbound, HTTP/1.
    Peer,
}

impl Road {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Mesh, Self::Outside, Self::Peer];

    /// The authority that requests name.
    pub fn authority(self) -> &'static str {
        match self {
            Self::Mesh | Self::Peer => "api:80",
            Self::Outside => "outside:80",
        }
    }
}

/// The scene.
#[derive(Debug)]
pub struct Scene {
    /// The proxy of the client.
    pub web: Proxy,
    /// The proxy of the application `api`.
    pub api: Proxy,
    /// The application behind `api`.
    pub app: Recorder,
    /// The application outside the mesh.
    pub outside: Recorder,
    /// Another behind `api`, which speaks HTTP/2: `api2:80`.
    pub app2: Recorder,
    /// Another outside the mesh, which speaks HTTP/2: `outside2:80`.
    pub outside2: Recorder,
    /// Those without manners: `puppet:80` behind `api`, `far-puppet:80` outside the mesh.
    pub puppets: [Puppet; 2],
    /// A workload of the mesh that says what it likes.
    pub mallory: Workload,
    bystander: Bystander,
    /// Identity, discovery and their files.
    pub mesh: Mesh,
}

impl Scene {
    /// Sets it up with copies of `program` (see [`Mesh::builder`]), and settings for both proxies.
    pub fn start(program: impl Into<PathBuf>, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let mesh = Mesh::start(program)?;
        let spawn = |name: &str| {
            let spec = settings.iter().fold(mesh.proxy(name), |spec, (setting, value)| spec.env(setting, value));
            spec.spawn()
        };
        let (web, api) = (spawn("web")?, spawn("api")?);
        let (app, outside) = (Recorder::start(api.ip)?, Recorder::start(mesh.address())?);
        mesh.service("api", 80, None, &[app.address])?;
        mesh.service("outside", 80, None, &[outside.address])?;
        let (app2, outside2) = (Recorder::start_http2(api.ip)?, Recorder::start_http2(mesh.address())?);
        mesh.service("api2", 80, None, &[app2.address])?;
        mesh.service("outside2", 80, None, &[outside2.address])?;
        let puppets = [Puppet::start(api.ip)?, Puppet::start(mesh.address())?];
        mesh.service("puppet", 80, None, &[puppets[0].address])?;
        mesh.service("far-puppet", 80, None, &[puppets[1].address])?;
        let (web, api) = (web.ready()?, api.ready()?);
        for road in [Road::Mesh, Road::Outside] {
            until(&format!("{road:?} is open"), || {
                let answer = web.get(road.authority(), TARGET)?;
                ensure!(answer.status == 200, "{}{}", answer.head, answer.text());
                Ok(Some(()))
            })
            .with_context(|| format!("{}\n{}", web.program.log_end(), api.program.log_end()))?;
        }
        let mallory = Workload::certified(&mesh, "mallory")?;
        let bystander = Bystander::start(web.outbound, "api:80")?;
        Ok(Self { web, api, app, outside, app2, outside2, puppets, mallory, bystander, mesh })
    }

    /// A raw connection that HTTP/1 takes this road on.
    pub fn line(&self, road: Road) -> anyhow::Result<Line> {
        match road {
            Road::Mesh | Road::Outside => Line::plain(self.web.outbound),
            Road::Peer => self.mallory.dial(&self.api, Alpn::MeshTcp, self.app.address.port()),
        }
    }

    /// A raw connection that HTTP/2 takes this road on, and the authority that its requests name.
    pub fn line2(&self, road: Road) -> anyhow::Result<(Line, &'static str)> {
        Ok(match road {
            Road::Mesh => (Line::plain(self.web.outbound)?, "api2:80"),
            Road::Outside => (Line::plain(self.web.outbound)?, "outside2:80"),
            Road::Peer => (self.mallory.dial(&self.api, Alpn::MeshHttp, self.app2.address.port())?, "api2:80"),
        })
    }

    /// The application at the end of that.
    pub fn end2(&self, road: Road) -> &Recorder {
        match road {
            Road::Mesh | Road::Peer => &self.app2,
            Road::Outside => &self.outside2,
        }
    }

    /// The application at its end.
    pub fn end(&self, road: Road) -> &Recorder {
        match road {
            Road::Mesh | Road::Peer => &self.app,
            Road::Outside => &self.outside,
        }
    }

    /// The proxy that its bytes meet first.
    pub fn first(&self, road: Road) -> &Proxy {
        match road {
            Road::Mesh | Road::Outside => &self.web,
            Road::Peer => &self.api,
        }
    }

    /// This road, for [`super::rows`].
    pub fn way(&self, road: Road) -> impl Way {
        Via { scene: self, road }
    }

    /// The end: the bystander was not disturbed, both proxies live and never panicked, and the applications saw no
    /// request but those that `expected` knows.
    pub fn close(self, expected: impl Fn(&str) -> bool) -> anyhow::Result<()> {
        let logs = || format!("{}\n{}", self.web.program.log_end(), self.api.program.log_end());
        self.bystander.end().context("the bystander was disturbed").with_context(logs)?;
        for proxy in [&self.web, &self.api] {
            proxy.program.running()?;
            let log = proxy.log();
            ensure!(!log.contains("panicked"), "a proxy panicked: {log}");
        }
        for app in [&self.app, &self.outside, &self.app2, &self.outside2] {
            let surprises = app.surprises(|target| target == TARGET || expected(target));
            ensure!(surprises.is_empty(), "an application saw what nobody asked for: {surprises:?}");
        }
        Ok(())
    }
}

struct Via<'a> {
    scene: &'a Scene,
    road: Road,
}

impl Way for Via<'_> {
    fn line(&self) -> anyhow::Result<Line> {
        self.scene.line(self.road)
    }

    fn authority(&self) -> &str {
        self.road.authority()
    }

    fn app(&self) -> &Recorder {
        self.scene.end(self.road)
    }

    fn refusals(&self) -> anyhow::Result<f64> {
        self.scene.first(self.road).metric("remora_requests_refused_total", &[])
    }
}
