//! A private, throw-away RabbitMQ node: own folder, ports, cookie and epmd, on 127.0.0.1 only, beside any number of
//! others and of the system's own. It can be stopped, killed, frozen and started again on the same data.
//!
//! Virtual hosts are made through the management API, here and for servers that others started
//! ([`Management`]).

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use super::certificates::Certificates;
use super::ports::free_port;
use super::{Management, log_tail, newest};
use crate::process::{Process, Signal, Watchdog, new_folder};
use crate::wait::wait_until;

/// A boot costs 5 to 6 CPU seconds; machines may be slow and busy.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// A graceful stop takes about 6 s.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// How the node is to be.
#[derive(Debug, Clone)]
pub struct RabbitMqOptions {
    /// Listen for `amqps://` too, with a certificate of [`RabbitMq::ca_file`].
    pub tls: bool,
    /// Memory above which the broker blocks publishers, in MiB.
    pub memory_mebibytes: u32,
}

impl Default for RabbitMqOptions {
    fn default() -> Self {
        Self {
            tls: false,
            memory_mebibytes: 1024,
        }
    }
}

/// One node. Dropping it kills it and removes its folder.
#[derive(Debug)]
pub struct RabbitMq {
    folder: PathBuf,
    programs: PathBuf,
    node: Option<Process>,
    ports: Ports,
    certificates: Option<Certificates>,
    // Dropped last, in this order: epmd, then the watchdog, which removes the folder.
    _epmd: Process,
    watchdog: Arc<Watchdog>,
}

#[derive(Debug)]
struct Ports {
    amqp: u16,
    amqps: u16,
    management: u16,
    distribution: u16,
    epmd: u16,
}

impl RabbitMq {
    /// The newest installation's `sbin` folder. Debian's wrappers in /usr/sbin are of no use: they change the user
    /// and drop the environment.
    pub fn installed() -> Option<PathBuf> {
        newest(
            &["/usr/lib/rabbitmq/lib", "/opt/rabbitmq/lib", "/opt"],
            "rabbitmq_server-",
            "sbin/rabbitmq-server",
        )
        .and_then(|server| server.parent().map(Path::to_path_buf))
    }

    /// Makes a node and boots it; about 5 s on a quiet machine.
    ///
    /// # Panics
    /// If RabbitMQ isn't installed, or the node isn't up within 120 s (with the end of its log).
    pub async fn start(options: RabbitMqOptions) -> Self {
        let programs = Self::installed().expect(
            "RabbitMQ isn't installed: run scripts/install-servers, or install rabbitmq-server",
        );
        let folder = new_folder("postrider-rabbitmq-");
        let watchdog = Watchdog::start(Some(&folder));
        let ports = Ports {
            amqp: free_port(),
            amqps: free_port(),
            management: free_port(),
            distribution: free_port(),
            epmd: free_port(),
        };
        let certificates = options.tls.then(|| Certificates::write(&folder));
        write_files(&folder, &ports, certificates.as_ref(), &options);

        // Ours, in the foreground: the one that a node starts by itself is a daemon that stays for ever.
        let epmd = Process::start(
            "epmd",
            Command::new("epmd")
                .args(["-address", "127.0.0.1", "-port", &ports.epmd.to_string()])
                .stdout(Stdio::null())
                .stderr(Stdio::null()),
            Arc::clone(&watchdog),
        );
        let mut rabbitmq = Self {
            folder,
            programs,
            node: None,
            ports,
            certificates,
            _epmd: epmd,
            watchdog,
        };
        rabbitmq.start_again().await;
        rabbitmq
    }

    /// The broker's URL, user guest, virtual host `/`.
    pub fn amqp_url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.ports.amqp)
    }

    /// The same by TLS. The certificate is for `localhost` and `127.0.0.1`.
    ///
    /// # Panics
    /// Without the option `tls`.
    pub fn amqps_url(&self) -> String {
        assert!(self.certificates.is_some(), "started without tls");
        format!("amqps://guest:guest@localhost:{}/%2f", self.ports.amqps)
    }

    /// The certificate of the authority that signed the broker's.
    ///
    /// # Panics
    /// Without the option `tls`.
    pub fn ca_file(&self) -> &Path {
        &self
            .certificates
            .as_ref()
            .expect("started with tls")
            .ca_file
    }

    /// `127.0.0.1:PORT` of the AMQP listener, for a proxy.
    pub fn amqp_address(&self) -> std::net::SocketAddr {
        ([127, 0, 0, 1], self.ports.amqp).into()
    }

    /// The management API's URL, with user and password.
    pub fn management_url(&self) -> String {
        format!("http://guest:guest@127.0.0.1:{}", self.ports.management)
    }

    /// The management API.
    pub fn management(&self) -> Management {
        Management::new(&self.management_url())
    }

    /// Makes a virtual host and returns its `amqp://` URL.
    ///
    /// # Panics
    /// If the broker refuses.
    pub async fn create_vhost(&self, name: &str) -> String {
        self.management().create_vhost(name).await;
        crate::servers::with_vhost(&self.amqp_url(), name)
    }

    /// Ready messages of a queue, by passive declaration (the management API lags 5 s).
    ///
    /// # Panics
    /// If the queue doesn't exist.
    pub async fn queue_depth(&self, vhost: &str, queue: &str) -> u32 {
        let url = crate::servers::with_vhost(&self.amqp_url(), vhost);
        crate::publish::Broker::connect(&url)
            .await
            .depth(queue)
            .await
    }

    /// Boots the node on what data it has; 6 to 8 s on a quiet machine.
    ///
    /// # Panics
    /// If it runs, or isn't up within 120 s (with the end of its log).
    pub async fn start_again(&mut self) {
        assert!(self.node.is_none(), "the node runs");
        let log = self.folder.join("rabbit.log");
        let log_start = fs::metadata(&log).map_or(0, |file| file.len() as usize);
        let mut node = Process::start("RabbitMQ", &mut self.command(), Arc::clone(&self.watchdog));
        let up = wait_until(BOOT_LIMIT, "RabbitMQ's boot", async || {
            let text = fs::read(&log).unwrap_or_default();
            let new = String::from_utf8_lossy(text.get(log_start..).unwrap_or_default());
            // The port opens a little before this line.
            if new.contains("Server startup complete") {
                return Some(true);
            }
            node.exit_status().map(|_| false)
        })
        .await;
        assert!(
            up,
            "RabbitMQ ended while it booted.\n{}\n{}",
            log_tail(&self.folder.join("output")),
            log_tail(&log)
        );
        self.node = Some(node);
    }

    /// Stops it gracefully (about 6 s).
    ///
    /// # Panics
    /// If it doesn't run, or takes longer than 60 s.
    pub async fn stop(&mut self) {
        let mut node = self.node.take().expect("the node runs");
        node.signal(Signal::TERM);
        node.wait(STOP_LIMIT).await;
    }

    /// Kills it with SIGKILL; it is gone when this returns.
    pub fn kill(&mut self) {
        drop(self.node.take());
    }

    /// Stops its processes in their tracks: connections stay open, nothing answers.
    pub fn freeze(&self) {
        self.running().signal_all(Signal::STOP);
    }

    /// Lets it go on after [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        self.running().signal_all(Signal::CONT);
    }

    /// The processor time that its processes have used since the start.
    pub fn cpu_time(&self) -> Duration {
        self.running().cpu_time_all()
    }

    /// Sets the memory above which the broker blocks publishers; it looks within 2.5 s. Lasts until the next start.
    ///
    /// # Panics
    /// If the node refuses.
    pub fn set_memory_mebibytes(&self, mebibytes: u32) {
        let mut command = Command::new(self.programs.join("rabbitmqctl"));
        self.environment(&mut command);
        let told = command
            .args(["set_vm_memory_high_watermark", "absolute"])
            .arg(format!("{mebibytes}MiB"))
            .stdin(Stdio::null())
            .output()
            .expect("rabbitmqctl lies beside rabbitmq-server");
        assert!(
            told.status.success(),
            "rabbitmqctl: {}",
            String::from_utf8_lossy(&told.stderr)
        );
    }

    /// The end of the node's log, for a test that failed.
    pub fn log(&self) -> String {
        log_tail(&self.folder.join("rabbit.log"))
    }

    fn running(&self) -> &Process {
        self.node.as_ref().expect("the node runs")
    }

    fn command(&self) -> Command {
        let output = fs::File::create(self.folder.join("output")).expect("our own folder");
        let mut command = Command::new(self.programs.join("rabbitmq-server"));
        self.environment(&mut command);
        command
            .stdout(output.try_clone().expect("a second handle"))
            .stderr(output);
        command
    }

    /// Everything that makes a program of RabbitMQ this node's.
    fn environment(&self, command: &mut Command) {
        let loopback = "-kernel inet_dist_use_interface {127,0,0,1}";
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("LANG", "C.UTF-8")
            // The cookie lies there.
            .env("HOME", &self.folder)
            // Makes the script become the virtual machine, so that our child is the node itself.
            .env("RUNNING_UNDER_SYSTEMD", "true")
            .env(
                "RABBITMQ_NODENAME",
                format!("postrider{}@localhost", self.ports.amqp),
            )
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.ports.amqp.to_string())
            .env("RABBITMQ_DIST_PORT", self.ports.distribution.to_string())
            .env("ERL_EPMD_PORT", self.ports.epmd.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env(
                "RABBITMQ_CONF_ENV_FILE",
                self.folder.join("rabbitmq-env.conf"),
            )
            .env("RABBITMQ_CONFIG_FILE", self.folder.join("rabbitmq"))
            .env(
                "RABBITMQ_ADVANCED_CONFIG_FILE",
                self.folder.join("advanced.config"),
            )
            .env(
                "RABBITMQ_ENABLED_PLUGINS_FILE",
                self.folder.join("enabled_plugins"),
            )
            .env("RABBITMQ_GENERATED_CONFIG_DIR", self.folder.join("config"))
            .env("RABBITMQ_MNESIA_BASE", self.folder.join("mnesia"))
            .env("RABBITMQ_LOG_BASE", &self.folder)
            .env("RABBITMQ_LOGS", self.folder.join("rabbit.log"))
            .env("RABBITMQ_PID_FILE", self.folder.join("rabbit.pid"))
            // Schedulers that don't spin: the machine's cores are the tests', too.
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                format!("{loopback} +S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none"),
            )
            .env("RABBITMQ_CTL_ERL_ARGS", loopback);
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the end of RabbitMQ's log\n{}", self.log());
        }
    }
}

fn write_files(
    folder: &Path,
    ports: &Ports,
    certificates: Option<&Certificates>,
    options: &RabbitMqOptions,
) {
    let mut config = format!(
        "listeners.tcp.default = 127.0.0.1:{}\n\
         management.tcp.ip = 127.0.0.1\n\
         management.tcp.port = {}\n\
         loopback_users = none\n\
         vm_memory_high_watermark.absolute = {}MiB\n\
         disk_free_limit.absolute = 50MB\n\
         log.console = false\n\
         log.file.level = info\n",
        ports.amqp, ports.management, options.memory_mebibytes
    );
    if let Some(certificates) = certificates {
        config += &format!(
            "listeners.ssl.default = 127.0.0.1:{}\n\
             ssl_options.cacertfile = {}\n\
             ssl_options.certfile = {}\n\
             ssl_options.keyfile = {}\n\
             ssl_options.verify = verify_none\n\
             ssl_options.fail_if_no_peer_cert = false\n",
            ports.amqps,
            certificates.ca_file.display(),
            certificates.cert_file.display(),
            certificates.key_file.display()
        );
    }
    let cookie = folder.join(".erlang.cookie");
    for (path, text) in [
        (folder.join("rabbitmq.conf"), config),
        (folder.join("rabbitmq-env.conf"), String::new()),
        (
            folder.join("enabled_plugins"),
            "[rabbitmq_management].\n".into(),
        ),
        (cookie.clone(), uuid::Uuid::new_v4().simple().to_string()),
    ] {
        fs::write(path, text).expect("our own folder");
    }
    // Erlang refuses a cookie that others may read.
    fs::set_permissions(cookie, fs::Permissions::from_mode(0o400)).expect("our own file");
}
