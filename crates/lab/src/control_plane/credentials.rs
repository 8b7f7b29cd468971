//! Keys, certificates and tokens of a control plane that reads them from files.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::Context;
use apiserver::auth::certificate::{Authority, SubjectName};
use k8s_openapi::ByteString;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::json;

use super::fabric_addresses;
use crate::cluster::write_secret;

/// Names by which the API server is known inside of a cluster.
const SERVER_NAMES: [&str; 4] = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"];
/// The first address of the cluster's Service network is the API server's.
const SERVICE_V4: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// A user that a token stands for.
pub(super) struct Account {
    /// The user's name.
    pub(super) user: &'static str,
    /// The user's group, or nothing.
    pub(super) group: &'static str,
}

/// May do all.
pub(super) const ADMIN: Account = Account { user: "kubernetes-admin", group: "system:masters" };
/// kube-controller-manager.
pub(super) const CONTROLLER_MANAGER: Account = Account { user: "system:kube-controller-manager", group: "" };
/// kube-scheduler.
pub(super) const SCHEDULER: Account = Account { user: "system:kube-scheduler", group: "" };

/// Everything secret of one control plane, and where it is written.
pub(super) struct Credentials {
    directory: PathBuf,
    ca_pem: String,
    admin_token: String,
}

impl Credentials {
    /// Makes all of it; the programs reach the API server at `url`.
    pub(super) fn create(directory: &Path, url: &str) -> anyhow::Result<Self> {
        let authority = Authority::generate().context("make a certificate authority")?;
        let ca_pem = authority.certificate_pem();
        let mut names: Vec<SubjectName> =
            SERVER_NAMES.iter().map(|name| SubjectName::Dns((*name).to_string())).collect();
        let own = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V4(SERVICE_V4)];
        names.extend(own.into_iter().chain(fabric_addresses()).map(SubjectName::Ip));
        let serving = authority.issue_server_pem(&names).context("make the API server's certificate")?;
        // Signs tokens; the API server reads public keys from certificates, and none in the form of this private key.
        let signing = authority.issue_client("service-accounts", None).context("make the key for tokens")?;
        let made = Self { directory: directory.to_path_buf(), ca_pem, admin_token: random_token()? };
        made.write("ca.crt", &made.ca_pem)?;
        made.write("apiserver.crt", &serving.certificate_pem)?;
        made.write("apiserver.key", &serving.key_pem)?;
        made.write("service-accounts.key", &signing.key_pem)?;
        made.write("service-accounts.crt", &signing.certificate_pem)?;
        let mut tokens = token_line(&ADMIN, &made.admin_token);
        for (account, file) in
            [(&CONTROLLER_MANAGER, "controller-manager.conf"), (&SCHEDULER, "scheduler.conf")]
        {
            let token = random_token()?;
            tokens.push_str(&token_line(account, &token));
            made.write(file, &kubeconfig(url, &made.ca_pem, account, &token))?;
        }
        made.write("tokens.csv", &tokens)?;
        Ok(made)
    }

    /// Path of one of the files, for a command line.
    pub(super) fn path(&self, file: &str) -> String {
        self.directory.join(file).display().to_string()
    }

    /// The certificate that clients must trust, as PEM.
    pub(super) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// A kubeconfig of a user that may do all.
    pub(super) fn admin_kubeconfig(&self, url: &str) -> String {
        kubeconfig(url, &self.ca_pem, &ADMIN, &self.admin_token)
    }

    fn write(&self, file: &str, text: &str) -> anyhow::Result<()> {
        write_secret(&self.directory.join(file), text).with_context(|| format!("write {file}"))
    }
}

/// A line of a file of static tokens: the user's name is its id too.
fn token_line(account: &Account, token: &str) -> String {
    let Account { user, group } = account;
    format!("{token},{user},{user},\"{group}\"\n")
}

fn kubeconfig(url: &str, ca_pem: &str, account: &Account, token: &str) -> String {
    let user = account.user;
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": {
            "server": url,
            "certificate-authority-data": ByteString(ca_pem.as_bytes().to_vec()),
        }}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": user}}],
        "current-context": "lab",
    });
    // JSON is YAML, which every reader of kubeconfigs takes, should the writer ever refuse.
    serde_saphyr::to_string(&config).unwrap_or_else(|_| config.to_string())
}

fn random_token() -> anyhow::Result<String> {
    let mut bytes = [0_u8; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| anyhow::anyhow!("the system has no randomness"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_line_has_the_four_columns_that_the_real_server_reads() {
        assert_eq!(token_line(&ADMIN, "t"), "t,kubernetes-admin,kubernetes-admin,\"system:masters\"\n");
    }

    #[test]
    fn a_kubeconfig_can_be_read_back() {
        let text = kubeconfig("https://127.0.0.1:1", "certificate", &SCHEDULER, "secret");
        let config = kube::config::Kubeconfig::from_yaml(&text).expect("a kubeconfig");
        assert_eq!(config.current_context.as_deref(), Some("lab"));
        let cluster = config.clusters.first().and_then(|named| named.cluster.as_ref()).expect("a cluster");
        assert_eq!(cluster.certificate_authority_data.as_deref(), Some("Y2VydGlmaWNhdGU="));
    }
}
